//! What the harness does to documents of common tasks in Python: columns that are made before
//! templates are rendered.

use minijinja::value::Value;

use crate::data::{integer, strip};

/// Makes new columns of a document; `None` if it lacks those that they are made of.
pub(super) type Adapter = fn(&Value) -> Option<Vec<(String, Value)>>;

/// The adapters by name: values of the key `process_docs`.
const ADAPTERS: [(&str, Adapter); 2] =
    [("hellaswag", hellaswag), ("truthfulqa_mc2", truthfulqa_mc2)];

/// Returns the adapter `name`.
pub(super) fn adapter(name: &str) -> Option<Adapter> {
    ADAPTERS.iter().find(|(own, _)| *own == name).map(|(_, adapter)| *adapter)
}

/// The names of all adapters, for messages.
pub(super) fn names() -> String {
    ADAPTERS.map(|(name, _)| name).join(", ")
}

fn text(document: &Value, column: &str) -> Option<String> {
    document.get_attr(column).ok()?.as_str().map(str::to_owned)
}

/// `query` and `choices`, without the traces of WikiHow's layout.
fn hellaswag(document: &Value) -> Option<Vec<(String, Value)>> {
    let context = format!(
        "{}: {} {}",
        text(document, "activity_label")?,
        text(document, "ctx_a")?,
        capitalised(&text(document, "ctx_b")?)
    );
    let endings = super::keys::texts(&document.get_attr("endings").ok()?)?;
    let choices: Value = endings.iter().map(|ending| without_layout(ending)).collect();
    Some(vec![("query".into(), without_layout(&context).into()), ("choices".into(), choices)])
}

/// Python's `str.capitalize`.
fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    let first: String = rest.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &rest.as_str().to_lowercase()
}

/// Removes ` [title]` and other brackets with their content on one line, and single pairs of
/// spaces.
fn without_layout(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    let (mut kept, mut rest) = (String::new(), text.as_str());
    while let Some(open) = rest.find('[') {
        let inside = &rest[open..];
        let end = inside.find(']').filter(|end| !inside[..*end].contains('\n'));
        let end = end.map_or(1, |end| end + 1);
        kept.push_str(&rest[..open]);
        if end == 1 {
            kept.push('[');
        }
        rest = &inside[end..];
    }
    kept.push_str(rest);
    kept.replace("  ", " ")
}

/// `right`: the indices of the true answers.
fn truthfulqa_mc2(document: &Value) -> Option<Vec<(String, Value)>> {
    let labels = document.get_attr("mc2_targets").ok()?.get_attr("labels").ok()?;
    let labels =
        labels.try_iter().ok()?.map(|label| integer(&label)).collect::<Option<Vec<_>>>()?;
    let right = labels.iter().enumerate().filter(|(_, label)| **label == 1);
    Some(vec![("right".into(), right.map(|(i, _)| i as i64).collect())])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `preprocess` of the harness's hellaswag on the same texts.
    #[test]
    fn layout_is_removed_as_in_the_harness() {
        for (text, expected) in [
            (" [header] How to bake [title] Mix.  Stir. ", " How to bake. Mix. Stir."),
            ("a [substeps] b [c", "a b [c"),
            ("[x]\n[y\nz]", "\n[y\nz]"),
        ] {
            assert_eq!(without_layout(text), expected, "{text}");
        }
        assert_eq!(capitalised("then Ann"), "Then ann");
        assert_eq!(capitalised(""), "");
    }
}
