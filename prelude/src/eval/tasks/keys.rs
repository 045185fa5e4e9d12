//! The keys of a task file: typed values, and the refusal of what is not followed.

use std::path::Path;

use minijinja::value::{Value, ValueKind};

use crate::data::integer;
use crate::error::{Error, Result, nearest};

/// The error that `place` of the task `file` cannot be followed.
pub(super) fn bad(
    file: &Path,
    place: impl Into<String>,
    reason: impl Into<String>,
    hint: impl Into<String>,
) -> Error {
    let (place, reason, hint) = (place.into(), reason.into(), hint.into());
    Error::Task { file: file.into(), place, reason, hint }
}

/// The keys and values of an object, in order.
pub(super) fn pairs(object: &Value) -> Vec<(String, Value)> {
    let keys = object.try_iter().into_iter().flatten();
    keys.map(|key| (key.to_string(), object.get_item(&key).unwrap_or_default())).collect()
}

/// The texts in a list; none if it is not a list of texts.
pub(super) fn texts(list: &Value) -> Option<Vec<String>> {
    let items = Some(list).filter(|list| list.kind() == ValueKind::Seq)?.try_iter().ok()?;
    items.map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The texts in a list, or one text as a list of it; none if it is neither.
pub(super) fn one_or_more(value: &Value) -> Option<Vec<String>> {
    value.as_str().map(|text| vec![text.to_owned()]).or_else(|| texts(value))
}

/// The keys of an object in a task file. Each is taken once; the rest is unknown.
pub(super) struct Keys<'a> {
    pub file: &'a Path,
    /// The path to the object, as in `fewshot_config.`.
    inside: String,
    pairs: Vec<(String, Value)>,
    taken: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    pub fn new(file: &'a Path, pairs: Vec<(String, Value)>) -> Self {
        Self { file, inside: String::new(), pairs, taken: Vec::new() }
    }

    /// The keys of the object `value` at `place`.
    ///
    /// # Errors
    /// It is not an object.
    pub fn within(file: &'a Path, place: &str, value: &Value) -> Result<Self> {
        if value.kind() != ValueKind::Map {
            let hint = "write it as keys and values, as in lm-evaluation-harness";
            return Err(bad(file, format!("`{place}`"), "it is not an object", hint));
        }
        Ok(Self { file, inside: format!("{place}."), pairs: pairs(value), taken: Vec::new() })
    }

    /// The error that `key` cannot be followed.
    pub fn bad(&self, key: &str, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        bad(self.file, format!("`{}{key}`", self.inside), reason, hint)
    }

    /// Takes a value; null counts as missing.
    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.taken.push(key);
        let at = self.pairs.iter().position(|(own, _)| own == key)?;
        Some(self.pairs.remove(at).1).filter(|value| !value.is_none())
    }

    /// Takes keys that describe the task and change no score.
    pub fn skip(&mut self, keys: &[&'static str]) {
        keys.iter().for_each(|key| drop(self.take(key)));
    }

    /// Takes a text.
    ///
    /// # Errors
    /// Another type.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let text = value.as_str().map(str::to_owned);
        text.map(Some).ok_or_else(|| self.bad(key, "it is not a text", "write it in quotes"))
    }

    /// Takes a required text.
    ///
    /// # Errors
    /// It is missing, or of another type.
    pub fn required(&mut self, key: &'static str) -> Result<String> {
        self.text(key)?.ok_or_else(|| self.bad(key, "it is missing", "add it"))
    }

    /// Takes true or false.
    ///
    /// # Errors
    /// Another type.
    pub fn flag(&mut self, key: &'static str) -> Result<Option<bool>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.kind() {
            ValueKind::Bool => Ok(Some(value.is_true())),
            _ => Err(self.bad(key, "it is not true or false", "write true or false")),
        }
    }

    /// Takes an integer.
    ///
    /// # Errors
    /// Another type.
    pub fn integer(&mut self, key: &'static str) -> Result<Option<i64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = integer(&value).filter(|_| value.is_integer());
        number.map(Some).ok_or_else(|| self.bad(key, "it is not an integer", "write an integer"))
    }

    /// Takes an integer of at least 0.
    ///
    /// # Errors
    /// Another value.
    pub fn count(&mut self, key: &'static str) -> Result<Option<usize>> {
        let bad = |keys: &Self| keys.bad(key, "it is negative", "write an integer of at least 0");
        self.integer(key)?.map(|n| usize::try_from(n).map_err(|_| bad(self))).transpose()
    }

    /// Takes a list, or one value as a list of it.
    pub fn list(&mut self, key: &'static str) -> Option<Vec<Value>> {
        let value = self.take(key)?;
        Some(match value.kind() {
            ValueKind::Seq => value.try_iter().into_iter().flatten().collect(),
            _ => vec![value],
        })
    }

    /// Takes a list of texts, or one text.
    ///
    /// # Errors
    /// Another type.
    pub fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        one_or_more(&value)
            .map(Some)
            .ok_or_else(|| self.bad(key, "it is not a list of texts", "use quotes"))
    }

    /// Whether `key` is there.
    pub fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(own, value)| own == key && !value.is_none())
    }

    /// Refuses the keys that nothing has taken.
    ///
    /// # Errors
    /// The first of them, by name.
    pub fn finish(self) -> Result<()> {
        let Some((key, _)) = self.pairs.iter().find(|(_, value)| !value.is_none()) else {
            return Ok(());
        };
        let hint = match nearest(key, self.taken.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("remove it, or see which keys are read: {}", self.taken.join(", ")),
        };
        Err(self.bad(key, "this key is not supported", hint))
    }
}
