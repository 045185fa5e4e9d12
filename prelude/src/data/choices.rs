//! Multiple choice: rows with a question, options and the index of the right one, in the layouts of
//! common benchmarks.
//!
//! `choices` is a list of texts, or an object with `text` and `label`. `answer`, `answerKey` or
//! `label` identifies the right option by index from 0, letter, label or text.

use minijinja::value::{Value, ValueKind};

use super::columns::{Columns, text};
use super::example::Example;
use super::row_error::RowError;

/// A multiple-choice question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The question with each option; `prompt` is where the option begins. Both are tokenized
    /// together: the first `n` tokens count as the question, where `n` is the number of tokens of
    /// the question alone.
    pub options: Vec<Example>,
    /// The index of the right option.
    pub right: usize,
}

const HINT: &str = "choices is a list of at least two texts, or {\"text\": [...], \"label\": [...]}; answer, answerKey or label is \
                    the index from 0, letter, label or text of the right one";

/// The options of a row and the index of the right one; `None` if the row has no `choices`.
///
/// # Errors
/// Invalid choices or answer.
pub(super) fn choices(columns: &mut Columns) -> Result<Option<(Vec<String>, usize)>, RowError> {
    let Some(found) = columns.structure("choices")? else { return Ok(None) };
    let bad = |reason: String| RowError::new(reason, HINT);
    let texts = |list: &Value| -> Option<Vec<String>> {
        let items = Some(list).filter(|list| list.kind() == ValueKind::Seq)?.try_iter().ok()?;
        items.map(|item| text("choices", &item).ok()).collect()
    };
    let inside = |key: &str| found.get_attr(key).ok().and_then(|list| texts(&list));
    let options = texts(&found).or_else(|| inside("text")).filter(|options| options.len() > 1);
    let options =
        options.ok_or_else(|| bad("`choices` is not a list of at least two texts".into()))?;
    if options.iter().any(|option| option.trim().is_empty()) {
        return Err(bad("one of its `choices` is empty".into()));
    }
    let labels = inside("label").unwrap_or_default();
    let answer = ["answer", "answerKey", "label"].into_iter().find_map(|name| columns.take(name));
    let answer = answer
        .ok_or_else(|| bad("it has `choices` but no `answer`, `answerKey` or `label`".into()))?;
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
        None => {
            Err(bad(format!("its answer `{answer}` is not one of its {} choices", options.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    fn read(row: serde_json::Value) -> Result<Option<(Vec<String>, usize)>, RowError> {
        let columns = row
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        choices(&mut Columns::new(columns.collect()))
    }

    #[test]
    fn right_answers_are_found_in_benchmark_layouts() {
        let options = vec!["red".to_owned(), "blue".to_owned()];
        for answer in [json!(1), json!("B"), json!("blue"), json!("1")] {
            assert_eq!(
                read(json!({"choices": ["red", "blue"], "answer": answer})),
                Ok(Some((options.clone(), 1)))
            );
        }
        let labelled =
            json!({"choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"});
        assert_eq!(read(labelled), Ok(Some((options.clone(), 1))));
        // Tables store them as JSON text.
        assert_eq!(
            read(json!({"choices": "[\"red\", \"blue\"]", "label": "1"})),
            Ok(Some((options, 1)))
        );
        assert_eq!(
            read(json!({"choices": [3, 4.5], "answer": 0})),
            Ok(Some((vec!["3".into(), "4.5".into()], 0)))
        );
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
