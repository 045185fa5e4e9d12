//! The columns of a row by name, and which of them were read.

use minijinja::value::{Value, ValueKind};

use super::row_error::RowError;

/// The columns of a row in file order. A null column counts as missing.
pub(super) struct Columns {
    all: Vec<(String, Value)>,
    used: Vec<bool>,
}

impl Columns {
    pub fn new(all: Vec<(String, Value)>) -> Self {
        Self { used: vec![false; all.len()], all }
    }

    /// Returns all columns with their values, including null ones.
    pub fn into_pairs(self) -> Vec<(String, Value)> {
        self.all
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|(column, value)| column == name && !value.is_none())
    }

    /// Whether the row has this column.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The names of all columns, including null ones.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(name, _)| name.as_str())
    }

    /// Removes and returns a column's value.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.find(name)?;
        self.used[at] = true;
        Some(self.all[at].1.clone())
    }

    /// Removes a column and returns it as text; a number becomes text.
    ///
    /// # Errors
    /// Any other type.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, RowError> {
        self.take(name).map(|value| text(name, &value)).transpose()
    }

    /// Removes a column that is a list or object, or JSON text of one, as tables have it.
    ///
    /// # Errors
    /// Text that is not JSON.
    pub fn structure(&mut self, name: &str) -> Result<Option<Value>, RowError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(json) = value.as_str() else { return Ok(Some(value)) };
        if json.trim().is_empty() {
            return Ok(None);
        }
        let hint = "use a list or object, or its JSON text (json.dumps), not Python's repr";
        let read: Result<Value, _> = serde_json::from_str(json);
        let is_text = |value: &Value| !matches!(value.kind(), ValueKind::Seq | ValueKind::Map);
        match read {
            Ok(value) if !is_text(&value) => Ok(Some(value)),
            _ => Err(RowError::new(format!("`{name}` is text, not a list or object"), hint)),
        }
    }

    /// The non-null columns that were not read.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let unread = self
            .all
            .iter()
            .zip(&self.used)
            .filter(|((_, value), used)| !**used && !value.is_none());
        unread.map(|((name, _), _)| name.as_str())
    }
}

/// The name of the type of `value`, for messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::String => "text",
        ValueKind::Number => "a number",
        ValueKind::Bool => "true or false",
        ValueKind::Seq => "a list",
        ValueKind::Map => "an object",
        _ => "nothing",
    }
}

/// `value` of the column `name` as text; a number becomes text.
pub(super) fn text(name: &str, value: &Value) -> Result<String, RowError> {
    const EXACT: f64 = (1u64 << 53) as f64;
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if number.abs() < EXACT => Ok(value.to_string()),
            _ => Err(RowError::new(
                format!("`{name}` is a number with too many digits to store exactly"),
                "write it as text, in quotes",
            )),
        },
        _ => {
            let hint = "use one text (or number) in that column; if there are several answers, the one to learn";
            Err(RowError::new(format!("`{name}` is {}, not text", type_name(value)), hint))
        }
    }
}
