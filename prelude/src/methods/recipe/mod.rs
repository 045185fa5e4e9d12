//! A mergekit recipe, a YAML file: models or slices with their parameters, a method, a base, dtypes, a tokenizer.
//!
//! ```yaml
//! merge_method: ties
//! base_model: base
//! models:
//!   - model: japanese
//!     parameters: {weight: 0.5, density: [0.4, 0.8]}
//!   - model: math
//!     parameters: {weight: 0.5}
//! parameters: {normalize: true}
//! dtype: bfloat16
//! ```
//!
//! Whatever is not followed is refused by its key. Numbers are computed in f32 whatever `dtype` says, and
//! rounded once, when they are written.

mod plan;
mod setting;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::setting::Setting;
use super::{Entry, find};
use crate::checkpoint::read_file;
use crate::error::{Error, Result};

/// Bytes of the largest recipe that is read.
const MOST: u64 = 1 << 20;

/// Parameters by name.
type Settings = BTreeMap<String, Setting>;

/// A recipe as it stands in its file.
pub(crate) struct Recipe {
    file: PathBuf,
    text: String,
    method: &'static Entry,
    /// One for `models`.
    slices: Vec<Slice>,
    /// Whether it names models, whole, not slices.
    whole: bool,
    base: Option<String>,
    /// What is written.
    dtype: Option<&'static str>,
    tokenizer: Option<String>,
    parameters: Settings,
}

/// Layers that follow each other.
struct Slice {
    inputs: Vec<Input>,
    base: Option<String>,
    parameters: Settings,
}

/// What a model gives to a slice.
struct Input {
    model: String,
    /// None: all of them.
    layers: Option<Range<usize>>,
    parameters: Settings,
}

impl Recipe {
    /// Reads `file`.
    ///
    /// # Errors
    /// A file that is missing, too large or no YAML, or that says what is not followed.
    pub fn open(file: &Path) -> Result<Self> {
        let yaml = |reason: String| Error::Yaml { file: file.into(), reason };
        let bytes = match read_file(file, MOST) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidData => {
                return Err(yaml("it is larger than a recipe can be".into()));
            }
            bytes => bytes?,
        };
        let text = String::from_utf8(bytes).map_err(|e| yaml(e.to_string()))?;
        Self::parse(file, text)
    }

    /// Reads `text`, which `file` has.
    ///
    /// # Errors
    /// As for [`Recipe::open`].
    pub fn parse(file: &Path, text: String) -> Result<Self> {
        let yaml = |reason: String| Error::Yaml { file: file.into(), reason };
        // Few aliases, however they are nested, replace little text.
        let options = serde_saphyr::options! {
            with_snippet: false,
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
        };
        let value: Value = serde_saphyr::from_str_with_options(&text, options).map_err(|e| yaml(e.to_string()))?;
        let at = At { file, key: String::new() };
        Self::read(&at, at.map(&value)?, text)
    }

    fn read(at: &At<'_>, map: &Map<String, Value>, text: String) -> Result<Self> {
        at.only(
            map,
            &[
                "merge_method",
                "models",
                "slices",
                "base_model",
                "parameters",
                "dtype",
                "out_dtype",
                "tokenizer_source",
                "tokenizer",
            ],
        )?;
        let method = at.text(map, "merge_method")?.ok_or_else(|| at.bad("merge_method", "it is missing"))?;
        let method = find(&method)?;
        let (slices, whole) = match (map.get("models"), map.get("slices")) {
            (Some(models), None) => {
                let at = at.inner("models");
                let inputs = at.list(models, |at, value| Input::read(&at, at.map(value)?, method, false))?;
                (vec![Slice { inputs, base: None, parameters: Settings::new() }], true)
            }
            (None, Some(slices)) => {
                (at.inner("slices").list(slices, |at, value| Slice::read(&at, at.map(value)?, method))?, false)
            }
            _ => return Err(at.bad("models", "expected either `models` or `slices`")),
        };
        // Written is what `out_dtype` says, or else `dtype`.
        let dtypes = ["dtype", "out_dtype"].map(|key| at.text(map, key)?.map(|name| at.dtype(key, &name)).transpose());
        let [dtype, out_dtype] = dtypes;
        Ok(Self {
            file: at.file.into(),
            text,
            method,
            slices,
            whole,
            base: at.text(map, "base_model")?,
            dtype: out_dtype?.or(dtype?),
            tokenizer: tokenizer(at, map)?,
            parameters: at.settings(map, method, true)?,
        })
    }
}

impl Slice {
    fn read(at: &At<'_>, map: &Map<String, Value>, method: &Entry) -> Result<Self> {
        at.only(map, &["sources", "base_model", "parameters"])?;
        let sources = map.get("sources").ok_or_else(|| at.bad("sources", "it is missing"))?;
        let inputs = at.inner("sources").list(sources, |at, value| Input::read(&at, at.map(value)?, method, true))?;
        Ok(Self { inputs, base: at.text(map, "base_model")?, parameters: at.settings(map, method, true)? })
    }
}

impl Input {
    fn read(at: &At<'_>, map: &Map<String, Value>, method: &Entry, sliced: bool) -> Result<Self> {
        at.only(map, if sliced { &["model", "layer_range", "parameters"] } else { &["model", "parameters"] })?;
        let model = at.text(map, "model")?.ok_or_else(|| at.bad("model", "it is missing"))?;
        let layers = if sliced { Some(at.range(map, "layer_range")?) } else { None };
        Ok(Self { model, layers, parameters: at.settings(map, method, false)? })
    }
}

/// Whose tokenizer is asked for: `base`, `union`, or a model.
fn tokenizer(at: &At<'_>, map: &Map<String, Value>) -> Result<Option<String>> {
    match (at.text(map, "tokenizer_source")?, map.get("tokenizer")) {
        (source, None) => Ok(source),
        (Some(_), Some(_)) => Err(at.bad("tokenizer", "there is a `tokenizer_source` too")),
        (None, Some(value)) => {
            let at = at.inner("tokenizer");
            let map = at.map(value)?;
            at.only(map, &["source"])?;
            Ok(Some(at.text(map, "source")?.unwrap_or_else(|| "union".into())))
        }
    }
}

/// A place in a recipe, for errors.
struct At<'a> {
    file: &'a Path,
    key: String,
}

impl At<'_> {
    fn inner(&self, key: &str) -> Self {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) };
        Self { file: self.file, key }
    }

    fn bad(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Recipe { file: self.file.into(), key: self.inner(key).key, reason: reason.into() }
    }

    fn map<'v>(&self, value: &'v Value) -> Result<&'v Map<String, Value>> {
        let bad = || Error::Recipe { file: self.file.into(), key: self.key.clone(), reason: "expected keys and values".into() };
        value.as_object().ok_or_else(bad)
    }

    /// An error for a key that is not among `known`.
    fn only(&self, map: &Map<String, Value>, known: &[&str]) -> Result<()> {
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.bad(key, format!("it is not supported, only {}", known.join(", ")))),
            None => Ok(()),
        }
    }

    fn list<T>(&self, value: &Value, read: impl Fn(Self, &Value) -> Result<T>) -> Result<Vec<T>> {
        let all = value.as_array().filter(|all| !all.is_empty());
        let bad = || Error::Recipe { file: self.file.into(), key: self.key.clone(), reason: "expected a list".into() };
        let place = |i: usize| Self { file: self.file, key: format!("{}[{i}]", self.key) };
        all.ok_or_else(bad)?.iter().enumerate().map(|(i, value)| read(place(i), value)).collect()
    }

    fn text(&self, map: &Map<String, Value>, key: &str) -> Result<Option<String>> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(self.bad(key, "expected a name")),
        }
    }

    fn range(&self, map: &Map<String, Value>, key: &str) -> Result<Range<usize>> {
        let ends = map.get(key).and_then(Value::as_array).filter(|ends| ends.len() == 2);
        let end = |i: usize| ends?.get(i)?.as_u64().map(|end| end as usize);
        match (end(0), end(1)) {
            (Some(start), Some(end)) if start < end && end < 1 << 20 => Ok(start..end),
            _ => Err(self.bad(key, "expected the first layer and the one after the last, as in [0, 16]")),
        }
    }

    fn dtype(&self, key: &str, name: &str) -> Result<&'static str> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" => Ok("f32"),
            "float16" => Ok("f16"),
            "bfloat16" => Ok("bf16"),
            other => Err(self.bad(key, format!("`{other}` is not float32, float16 or bfloat16"))),
        }
    }

    /// The `parameters` of `map`; those of the whole merge only where they are `whole`.
    fn settings(&self, map: &Map<String, Value>, method: &Entry, whole: bool) -> Result<Settings> {
        let Some(value) = map.get("parameters").filter(|value| !value.is_null()) else { return Ok(Settings::new()) };
        let at = self.inner("parameters");
        let keys = || method.keys.iter().filter(|key| key.scope != super::Scope::Verb);
        let known = keys().filter(|key| whole || key.is_each()).map(|key| key.name).collect::<Vec<_>>();
        let one = |(name, value): (&String, &Value)| {
            if !known.contains(&name.as_str()) {
                let elsewhere = keys().any(|key| key.name == name);
                let reason = match elsewhere {
                    true => {
                        format!("`{name}` of {} is one for the whole merge: put it into the recipe's `parameters`", method.name)
                    }
                    false => format!("{} has no such parameter, only {}", method.name, known.join(", ")),
                };
                return Err(at.bad(name, reason));
            }
            Ok((name.clone(), Setting::read(value).map_err(|reason| at.bad(name, reason))?))
        };
        at.map(value)?.iter().map(one).collect()
    }
}
