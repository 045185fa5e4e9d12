//! A position in a recipe: reads values there, and names the position in errors, each with a hint.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};

use super::Settings;
use super::setting::Setting;
use crate::error::{Error, Result, nearest};
use crate::methods::{METHODS, MethodEntry, Scope};

/// Keys of mergekit's other programs, with the program.
const OTHERS: [(&str, &str); 5] = [
    ("experts", "mergekit-moe"),
    ("gate_mode", "mergekit-moe"),
    ("shared_experts", "mergekit-moe"),
    ("genome", "mergekit-evolve"),
    ("tasks", "mergekit-evolve"),
];

/// A position in a recipe.
pub(super) struct Location<'a> {
    pub file: &'a Path,
    pub key: String,
    /// Notes for the user about what was read.
    pub notes: &'a RefCell<Vec<String>>,
}

impl<'a> Location<'a> {
    pub fn inner(&self, key: &str) -> Self {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) };
        Self { key, ..*self }
    }

    /// Returns an error at `key`, with a hint.
    pub fn bad(&self, key: &str, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        self.inner(key).wrong(reason, hint)
    }

    /// Returns an error at this position.
    pub fn wrong(&self, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        let key = if self.key.is_empty() { "the top level".to_owned() } else { self.key.clone() };
        Error::Recipe { file: self.file.into(), key, reason: reason.into(), hint: hint.into() }
    }

    pub fn note(&self, note: String) {
        self.notes.borrow_mut().push(note);
    }

    pub fn map<'v>(&self, value: &'v Value) -> Result<&'v Map<String, Value>> {
        value.as_object().ok_or_else(|| {
            self.wrong(
                "expected keys and values",
                "write `key: value` lines with equal indentation",
            )
        })
    }

    /// Checks for keys that are not `known`, which mergekit ignores. A misspelt key is an error;
    /// keys that begin with `_`, `.` or `x-` are ignored, because they may hold anchors; any other
    /// key gets a note.
    pub fn check_keys(&self, map: &Map<String, Value>, known: &[&str]) -> Result<()> {
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            if ["_", ".", "x-"].iter().any(|start| key.starts_with(start)) {
                continue;
            }
            if let Some((_, program)) =
                OTHERS.iter().find(|(other, _)| self.key.is_empty() && other == key)
            {
                let reason = format!("it is a key of {program}, whose recipes are not supported");
                return Err(self.bad(
                    key,
                    reason,
                    "use a recipe for mergekit-yaml: `merge_method` with `models` or `slices`",
                ));
            }
            if let Some(near) = nearest(key, known.iter().copied()) {
                return Err(self.bad(key, "unknown key", format!("did you mean `{near}`?")));
            }
            self.note(format!("`{}` has no effect: mergekit has no such key", self.inner(key).key));
        }
        Ok(())
    }

    pub fn list<T>(
        &self,
        value: &Value,
        read: impl Fn(Self, &Value) -> Result<T>,
    ) -> Result<Vec<T>> {
        let all = value.as_array().filter(|all| !all.is_empty());
        let bad = || {
            self.wrong(
                "expected a list",
                "write one or more entries, each on a line that begins with `- `",
            )
        };
        let place = |i: usize| Self { key: format!("{}[{i}]", self.key), ..*self };
        all.ok_or_else(bad)?.iter().enumerate().map(|(i, value)| read(place(i), value)).collect()
    }

    pub fn text(&self, map: &Map<String, Value>, key: &str) -> Result<Option<String>> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(self.bad(
                key,
                "expected a name",
                "write it as text, in quotes if it looks like a number",
            )),
        }
    }

    pub fn range(&self, map: &Map<String, Value>, key: &str) -> Result<Option<Range<usize>>> {
        let Some(value) = map.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let ends = value.as_array().filter(|ends| ends.len() == 2);
        let end = |i: usize| ends?.get(i)?.as_u64().map(|end| end as usize);
        match (end(0), end(1)) {
            (Some(start), Some(end)) if start < end && end < 1 << 20 => Ok(Some(start..end)),
            _ => Err(self.bad(
                key,
                "expected the first layer and the layer after the last",
                "write [0, 16] for the first 16 layers, or omit the key for all layers",
            )),
        }
    }

    /// Reads the output dtype. `computed` marks the key of the dtype that mergekit computes in.
    pub fn dtype(&self, map: &Map<String, Value>, key: &str) -> Result<Option<&'static str>> {
        let Some(name) = self.text(map, key)? else { return Ok(None) };
        match name.strip_prefix("torch.").unwrap_or(&name) {
            "float32" => Ok(Some("f32")),
            "float16" => Ok(Some("f16")),
            "bfloat16" => Ok(Some("bf16")),
            other => {
                let hint = "write float32, float16 or bfloat16, or omit the key to keep the sources' dtype";
                Err(self.bad(key, format!("unsupported dtype `{other}`"), hint))
            }
        }
    }

    /// Reads the `parameters` of `map`; those of the whole merge only at a level that allows them.
    /// A parameter of another method gets a note, because mergekit ignores it.
    pub fn settings(
        &self,
        map: &Map<String, Value>,
        method: &MethodEntry,
        level: Level,
    ) -> Result<Settings> {
        let Some(value) = map.get("parameters").filter(|value| !value.is_null()) else {
            return Ok(Settings::new());
        };
        let at = self.inner("parameters");
        let known = || method.keys.iter().filter(|key| key.scope != Scope::Verb);
        let mut settings = Settings::new();
        for (name, value) in at.map(value)? {
            let Some(key) = known().find(|key| key.name == name) else {
                at.unknown(name, method)?;
                continue;
            };
            if level == Level::Model && !key.is_each() {
                let reason = format!("`{name}` of {} applies to the whole merge", method.name);
                return Err(at.bad(
                    name,
                    reason,
                    "move it to the `parameters` of the slice or the recipe",
                ));
            }
            let expected = "write a number, a list of numbers to interpolate over the layers, or a list of {filter: PART, value: ...}";
            settings.insert(
                name.clone(),
                Setting::read(value).map_err(|reason| at.bad(name, reason, expected))?,
            );
        }
        Ok(settings)
    }

    /// Handles a parameter that `method` does not have: an error if it is misspelt, a note if other
    /// methods have it.
    fn unknown(&self, name: &str, method: &MethodEntry) -> Result<()> {
        let own: Vec<&str> =
            method.keys.iter().filter(|key| key.scope != Scope::Verb).map(|key| key.name).collect();
        let others = METHODS.iter().flat_map(|method| method.keys).any(|key| key.name == name);
        if others {
            self.note(format!(
                "`{}` has no effect: {} has no such parameter",
                self.inner(name).key,
                method.name
            ));
            return Ok(());
        }
        let hint = match nearest(name, own.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if own.is_empty() => format!("remove it: {} has no parameters", method.name),
            None => format!("remove it: {} has {}", method.name, own.join(", ")),
        };
        Err(self.bad(name, format!("{} has no such parameter", method.name), hint))
    }
}

/// The level at which parameters are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// A model, which cannot have parameters of the whole merge.
    Model,
    /// A slice, a module or the recipe.
    Merge,
}
