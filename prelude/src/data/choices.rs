//! Multiple choice: a row with a question, its options and which of them is right, as benchmarks have them.
//!
//! `choices` is a list of texts, or an object with `text` and `label`; `answer`, `answerKey` or `label` is the
//! right one's index from 0, its letter, its label or its text.

use minijinja::value::{Value, ValueKind};

use super::Example;
use super::columns::{Columns, Fault, text};

/// A question with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The question and an option, once for each; the prompt ends where the option begins. They are tokenised together:
    /// the tokens of the question, then what tokens of both have beyond as many.
    pub options: Vec<Example>,
    /// Which is right.
    pub right: usize,
}

const HINT: &str = "choices is a list of two texts or more, or {\"text\": [...], \"label\": [...]}; answer, answerKey or label is \
                    the right one's index from 0, letter, label or text";

/// The options of a row and the right one; none where it has no `choices`.
///
/// # Errors
/// What is wrong with them.
pub(super) fn choices(columns: &mut Columns) -> Result<Option<(Vec<String>, usize)>, Fault> {
    let Some(found) = columns.structure("choices")? else { return Ok(None) };
    let bad = |reason: String| Fault::new(reason, HINT);
    let texts = |list: &Value| -> Option<Vec<String>> {
        let items = Some(list).filter(|list| list.kind() == ValueKind::Seq)?.try_iter().ok()?;
        items.map(|item| text("choices", &item).ok()).collect()
    };
    let inside = |key: &str| found.get_attr(key).ok().and_then(|list| texts(&list));
    let options = texts(&found).or_else(|| inside("text")).filter(|options| options.len() > 1);
    let options = options.ok_or_else(|| bad("`choices` is not a list of two texts or more".into()))?;
    if options.iter().any(|option| option.trim().is_empty()) {
        return Err(bad("one of its `choices` is empty".into()));
    }
    let labels = inside("label").unwrap_or_default();
    let answer = ["answer", "answerKey", "label"].into_iter().find_map(|name| columns.take(name));
    let answer = answer.ok_or_else(|| bad("it has `choices` and no `answer`, `answerKey` or `label`".into()))?;
    let letter = |text: &str| match text.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    };
    let right = match (answer.as_str(), answer.is_integer()) {
        (Some(text), _) => (labels.iter().position(|label| label == text))
            .or_else(|| options.iter().position(|option| option == text))
            .or_else(|| letter(text))
            .or_else(|| text.parse().ok()),
        (None, true) => answer.as_usize(),
        (None, false) => None,
    };
    match right.filter(|right| *right < options.len()) {
        Some(right) => Ok(Some((options, right))),
        None => Err(bad(format!("its answer `{answer}` is none of its {} choices", options.len()))),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    fn read(row: serde_json::Value) -> Result<Option<(Vec<String>, usize)>, Fault> {
        let columns = row.as_object().unwrap().iter().map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        choices(&mut Columns::new(columns.collect()))
    }

    #[test]
    fn right_answers_are_found_as_benchmarks_say_them() {
        let options = vec!["red".to_owned(), "blue".to_owned()];
        for answer in [json!(1), json!("B"), json!("blue"), json!("1")] {
            assert_eq!(read(json!({"choices": ["red", "blue"], "answer": answer})), Ok(Some((options.clone(), 1))));
        }
        let labelled = json!({"choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"});
        assert_eq!(read(labelled), Ok(Some((options.clone(), 1))));
        // A table has them as text.
        assert_eq!(read(json!({"choices": "[\"red\", \"blue\"]", "label": "1"})), Ok(Some((options, 1))));
        assert_eq!(read(json!({"choices": [3, 4.5], "answer": 0})), Ok(Some((vec!["3".into(), "4.5".into()], 0))));
        assert_eq!(read(json!({"text": "a"})), Ok(None));
        for bad in [
            json!({"choices": ["a", "b"]}),
            json!({"choices": ["a"], "answer": 0}),
            json!({"choices": ["a", "b"], "answer": 2}),
            json!({"choices": ["a", "b"], "answer": -1}),
            json!({"choices": ["a", "b"], "answer": 1.5}),
            json!({"choices": ["a", " "], "answer": 0}),
            json!({"choices": ["a", ["b"]], "answer": 0}),
            json!({"choices": "['a', 'b']", "answer": 0}),
        ] {
            assert!(read(bad).is_err());
        }
    }
}
