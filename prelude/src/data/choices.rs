//! Multiple choice: a row with a question, its options and which of them is right, as benchmarks have them.
//!
//! `choices` is a list of texts, or an object with `text` and `label`; `answer`, `answerKey` or `label` is the
//! right one's index from 0, its letter, its label or its text.

use serde_json::{Map, Value};

use super::Example;

/// A question with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The question and an option, once for each; the prompt ends where the option begins.
    pub options: Vec<Example>,
    /// Which is right.
    pub right: usize,
}

/// The options of a row and the right one; none where it has no `choices`.
///
/// # Errors
/// What is wrong with them.
pub(super) fn choices(row: &Map<String, Value>) -> Result<Option<(Vec<String>, usize)>, String> {
    let Some(found) = row.get("choices") else { return Ok(None) };
    let texts =
        |list: &Value| -> Option<Vec<String>> { list.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect() };
    let options = texts(found).or_else(|| texts(&found["text"])).filter(|options| options.len() > 1);
    let options = options.ok_or("`choices` is not a list of two texts or more")?;
    let labels = texts(&found["label"]).unwrap_or_default();
    let answer = ["answer", "answerKey", "label"].into_iter().find_map(|key| row.get(key));
    let answer = answer.ok_or("it has `choices` and no `answer`, `answerKey` or `label`")?;
    let letter = |text: &str| match text.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    };
    let right = match answer {
        Value::Number(index) => index.as_u64().and_then(|index| usize::try_from(index).ok()),
        Value::String(text) => (labels.iter().position(|label| label == text))
            .or_else(|| options.iter().position(|option| option == text))
            .or_else(|| letter(text))
            .or_else(|| text.parse().ok()),
        _ => None,
    };
    match right.filter(|right| *right < options.len()) {
        Some(right) => Ok(Some((options, right))),
        None => Err(format!("its answer `{answer}` is none of its {} choices", options.len())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn right_answers_are_found_as_benchmarks_say_them() {
        let read = |row: Value| choices(row.as_object().unwrap());
        let options = vec!["red".to_owned(), "blue".to_owned()];
        for answer in [json!(1), json!("B"), json!("blue"), json!("1")] {
            assert_eq!(read(json!({"choices": ["red", "blue"], "answer": answer})), Ok(Some((options.clone(), 1))));
        }
        let labelled = json!({"choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"});
        assert_eq!(read(labelled), Ok(Some((options, 1))));
        assert_eq!(read(json!({"text": "a"})), Ok(None));
        for bad in
            [json!({"choices": ["a", "b"]}), json!({"choices": ["a"], "answer": 0}), json!({"choices": ["a", "b"], "answer": 2})]
        {
            assert!(read(bad).is_err());
        }
    }
}
