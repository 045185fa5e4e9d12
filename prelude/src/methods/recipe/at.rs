//! A place in a recipe: reads what stands there, and names it in errors, each with its remedy.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};

use super::Settings;
use super::setting::Setting;
use crate::error::{Error, Result, nearest};
use crate::methods::{Entry, METHODS, Scope};

/// Keys of mergekit's other programs, and which.
const OTHERS: [(&str, &str); 5] = [
    ("experts", "mergekit-moe"),
    ("gate_mode", "mergekit-moe"),
    ("shared_experts", "mergekit-moe"),
    ("genome", "mergekit-evolve"),
    ("tasks", "mergekit-evolve"),
];

/// A place in a recipe.
pub(super) struct At<'a> {
    pub file: &'a Path,
    pub key: String,
    /// What a reader should know of what was read.
    pub notes: &'a RefCell<Vec<String>>,
}

impl<'a> At<'a> {
    pub fn inner(&self, key: &str) -> Self {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) };
        Self { key, ..*self }
    }

    /// An error at `key`, and what to do about it.
    pub fn bad(&self, key: &str, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        self.inner(key).wrong(reason, hint)
    }

    /// An error here.
    pub fn wrong(&self, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        let key = if self.key.is_empty() { "the top level".to_owned() } else { self.key.clone() };
        Error::Recipe { file: self.file.into(), key, reason: reason.into(), hint: hint.into() }
    }

    pub fn note(&self, note: String) {
        self.notes.borrow_mut().push(note);
    }

    pub fn map<'v>(&self, value: &'v Value) -> Result<&'v Map<String, Value>> {
        value.as_object().ok_or_else(|| self.wrong("expected keys and values", "write `key: value` lines there, indented alike"))
    }

    /// Looks at keys that are not `known`: mergekit passes over them. One that is nearly a known one is a slip, one that
    /// begins with `_`, `.` or `x-` a place for anchors, and any other is worth a note.
    pub fn only(&self, map: &Map<String, Value>, known: &[&str]) -> Result<()> {
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            if ["_", ".", "x-"].iter().any(|start| key.starts_with(start)) {
                continue;
            }
            if let Some((_, program)) = OTHERS.iter().find(|(other, _)| self.key.is_empty() && other == key) {
                let reason = format!("it is a key of {program}, whose recipes are not followed here");
                return Err(self.bad(key, reason, "give a recipe of mergekit-yaml: merge_method with models or slices"));
            }
            if let Some(near) = nearest(key, known.iter().copied()) {
                return Err(self.bad(key, "there is no such key", format!("did you mean `{near}`?")));
            }
            self.note(format!("`{}` has no effect: mergekit has no such key there", self.inner(key).key));
        }
        Ok(())
    }

    pub fn list<T>(&self, value: &Value, read: impl Fn(Self, &Value) -> Result<T>) -> Result<Vec<T>> {
        let all = value.as_array().filter(|all| !all.is_empty());
        let bad = || self.wrong("expected a list", "write one entry or more, each on a line that begins with `- `");
        let place = |i: usize| Self { key: format!("{}[{i}]", self.key), ..*self };
        all.ok_or_else(bad)?.iter().enumerate().map(|(i, value)| read(place(i), value)).collect()
    }

    pub fn text(&self, map: &Map<String, Value>, key: &str) -> Result<Option<String>> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(self.bad(key, "expected a name", "write it as text, in quotes where it could be a number")),
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
                "expected the first layer and the one after the last",
                "write [0, 16] for the first 16 layers; without it, all are taken",
            )),
        }
    }

    /// The dtype that is written; `computed` says that the key is of the dtype that mergekit computes in.
    pub fn dtype(&self, map: &Map<String, Value>, key: &str) -> Result<Option<&'static str>> {
        let Some(name) = self.text(map, key)? else { return Ok(None) };
        match name.strip_prefix("torch.").unwrap_or(&name) {
            "float32" => Ok(Some("f32")),
            "float16" => Ok(Some("f16")),
            "bfloat16" => Ok(Some("bf16")),
            other => {
                let hint = "write float32, float16 or bfloat16, or leave it out: then tensors keep their sources' dtype";
                Err(self.bad(key, format!("`{other}` is no dtype that is written here"), hint))
            }
        }
    }

    /// The `parameters` of `map`; those of the whole merge only where they are `whole`. One that only another method
    /// has is noted, as mergekit passes over it.
    pub fn settings(&self, map: &Map<String, Value>, method: &Entry, level: Level) -> Result<Settings> {
        let Some(value) = map.get("parameters").filter(|value| !value.is_null()) else { return Ok(Settings::new()) };
        let at = self.inner("parameters");
        let known = || method.keys.iter().filter(|key| key.scope != Scope::Verb);
        let mut settings = Settings::new();
        for (name, value) in at.map(value)? {
            let Some(key) = known().find(|key| key.name == name) else {
                at.unknown(name, method)?;
                continue;
            };
            if level == Level::Model && !key.is_each() {
                let reason = format!("`{name}` of {} is one for the whole merge", method.name);
                return Err(at.bad(name, reason, "put it into the `parameters` of the slice or of the recipe"));
            }
            let expected =
                "write a number, a list of numbers that is spread over the layers, or a list of {filter: PART, value: ...}";
            settings.insert(name.clone(), Setting::read(value).map_err(|reason| at.bad(name, reason, expected))?);
        }
        Ok(settings)
    }

    /// A parameter that `method` does not have: an error where it is a slip, a note where other methods have it.
    fn unknown(&self, name: &str, method: &Entry) -> Result<()> {
        let own: Vec<&str> = method.keys.iter().filter(|key| key.scope != Scope::Verb).map(|key| key.name).collect();
        let others = METHODS.iter().flat_map(|method| method.keys).any(|key| key.name == name);
        if others {
            self.note(format!("`{}` has no effect: {} has no such parameter", self.inner(name).key, method.name));
            return Ok(());
        }
        let hint = match nearest(name, own.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if own.is_empty() => format!("leave it out: {} has no parameters", method.name),
            None => format!("leave it out: {} has {}", method.name, own.join(", ")),
        };
        Err(self.bad(name, format!("{} has no such parameter", method.name), hint))
    }
}

/// Whose parameters are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// A model's, which cannot have those of the whole merge.
    Model,
    /// A slice's, a module's or the recipe's.
    Merge,
}
