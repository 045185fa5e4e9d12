//! The values of config.json, each checked when it is read.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// config.json, or the part of it that describes the decoder, with its path.
#[derive(Clone, Copy)]
pub(super) struct Config<'a> {
    pub file: &'a Path,
    pub map: &'a Map<String, Value>,
    /// The whole config.json if `map` is its `text_config`.
    pub within: Option<&'a Map<String, Value>>,
}

impl<'a> Config<'a> {
    pub fn bad(&self, key: &str, reason: impl Into<String>) -> Error {
        let part = if self.within.is_some() { "text_config." } else { "" };
        Error::Config { file: self.file.into(), key: format!("{part}{key}"), reason: reason.into() }
    }

    /// The value of `key`; null counts as missing.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        value_in(self.map, key)
    }

    /// A positive integer.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.size_in(self.map, key)
    }

    pub fn size_in(&self, map: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
        const MAX: u64 = 1 << 24;
        match value_in(map, key) {
            None => Ok(None),
            Some(v) => match v.as_u64() {
                Some(n) if (1..=MAX).contains(&n) => Ok(Some(n as usize)),
                _ => Err(self.bad(key, format!("`{v}` is not a whole number from 1 to {MAX}"))),
            },
        }
    }

    /// A non-negative integer.
    pub fn whole(&self, key: &str, default: usize) -> Result<usize> {
        match self.value(key) {
            None => Ok(default),
            Some(v) => {
                let n = v.as_u64().and_then(|n| usize::try_from(n).ok());
                n.ok_or_else(|| self.bad(key, format!("`{v}` is not a whole number from 0")))
            }
        }
    }

    /// A positive number.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.number_in(self.map, key)?.unwrap_or(default))
    }

    pub fn number_in(&self, map: &Map<String, Value>, key: &str) -> Result<Option<f64>> {
        let Some(v) = value_in(map, key) else { return Ok(None) };
        let number = v.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        number.map(Some).ok_or_else(|| self.bad(key, format!("`{v}` is not a positive number")))
    }

    pub fn required_in(&self, map: &Map<String, Value>, key: &str) -> Result<f64> {
        self.number_in(map, key)?.ok_or_else(|| self.bad(key, "it is missing"))
    }

    /// A number that null disables.
    pub fn switchable(&self, key: &str, default: Option<f64>) -> Result<Option<f64>> {
        if self.map.contains_key(key) { self.number_in(self.map, key) } else { Ok(default) }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.flag_in(self.map, key, default)
    }

    pub fn flag_in(&self, map: &Map<String, Value>, key: &str, default: bool) -> Result<bool> {
        match value_in(map, key) {
            None => Ok(default),
            Some(v) => {
                v.as_bool().ok_or_else(|| self.bad(key, format!("`{v}` is not true or false")))
            }
        }
    }

    /// An object; an empty one counts as missing.
    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map).filter(|map| !map.is_empty())),
            Some(other) => Err(self.bad(key, format!("`{other}` is not an object"))),
        }
    }

    /// A token id or a list of token ids.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        ids.iter()
            .map(|v| v.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| self.bad(key, format!("`{value}` is not a token id")))
    }
}

fn value_in<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|v| !v.is_null())
}
