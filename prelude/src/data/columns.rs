//! The columns of a row by name, which of them were read, and what is wrong with a row.

use minijinja::value::{Value, ValueKind};

/// What is wrong with a row, and the remedy.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub reason: String,
    pub hint: &'static str,
}

/// What columns there are, for the hint of a row that has none of them.
const LAYOUTS: &str = "a row has an input (instruction, question, query, problem, prompt, input or text) and an output (output, \
                       solution, answer, response, ...), or messages, or prompt and completion, or text alone, or input_ids: \
                       help data";

impl Fault {
    pub fn new(reason: impl Into<String>, hint: &'static str) -> Self {
        Self { reason: reason.into(), hint }
    }

    /// Of columns that are missing or do not go together.
    pub fn layout(reason: impl Into<String>) -> Self {
        Self::new(reason, LAYOUTS)
    }
}

/// The columns of a row, in their order. A column that is null is as one that is missing.
pub(super) struct Columns {
    all: Vec<(String, Value)>,
    used: Vec<bool>,
}

impl Columns {
    pub fn new(all: Vec<(String, Value)>) -> Self {
        Self { used: vec![false; all.len()], all }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|(column, value)| column == name && !value.is_none())
    }

    /// Whether there is such a column.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The names of all columns, null or not.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(name, _)| name.as_str())
    }

    /// What a column holds, which is then read.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.find(name)?;
        self.used[at] = true;
        Some(self.all[at].1.clone())
    }

    /// The text of a column, or of a number.
    ///
    /// # Errors
    /// Anything else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        self.take(name).map(|value| text(name, &value)).transpose()
    }

    /// A column that is not text: as it is, or read from text that is JSON, as tables have it.
    ///
    /// # Errors
    /// Text that is not JSON.
    pub fn structure(&mut self, name: &str) -> Result<Option<Value>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(json) = value.as_str() else { return Ok(Some(value)) };
        if json.trim().is_empty() {
            return Ok(None);
        }
        let hint = "give a list or object, or the same as text in JSON (json.dumps), not as Python prints it";
        let read: Result<Value, _> = serde_json::from_str(json);
        let is_text = |value: &Value| !matches!(value.kind(), ValueKind::Seq | ValueKind::Map);
        match read {
            Ok(value) if !is_text(&value) => Ok(Some(value)),
            _ => Err(Fault::new(format!("`{name}` is text, not a list or object"), hint)),
        }
    }

    /// The columns that were not read and hold something.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let unread = self.all.iter().zip(&self.used).filter(|((_, value), used)| !**used && !value.is_none());
        unread.map(|((name, _), _)| name.as_str())
    }
}

/// What `value` is called in messages.
pub(super) fn called(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::String => "text",
        ValueKind::Number => "a number",
        ValueKind::Bool => "true or false",
        ValueKind::Seq => "a list",
        ValueKind::Map => "an object",
        _ => "nothing",
    }
}

/// `value`, of the column `name`, as text; a number as it is written.
pub(super) fn text(name: &str, value: &Value) -> Result<String, Fault> {
    const EXACT: f64 = (1u64 << 53) as f64;
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if number.abs() < EXACT => Ok(value.to_string()),
            _ => Err(Fault::new(format!("`{name}` is a number of more digits than are kept"), "write it in quotes, as text")),
        },
        _ => {
            let hint = "give one text (or number) in that column; of several answers, the one to learn";
            Err(Fault::new(format!("`{name}` is {}, not text", called(value)), hint))
        }
    }
}
