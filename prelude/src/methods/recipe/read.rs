//! Reads a recipe from YAML.

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Map, Value};

use super::chat::Template;
use super::location::{Level, Location};
use super::model::{one, reference};
use super::tokens::TokenizerKeys;
use super::{Input, Recipe, Slice};
use crate::error::Result;
use crate::methods::{MethodEntry, find};

impl Recipe {
    /// Reads the document `value` of `file`. `text` is the content of the file, `tokens` the order
    /// of its `tokenizer.tokens`.
    ///
    /// # Errors
    /// A missing or invalid value, or an unsupported feature.
    pub(super) fn read(
        file: &Path,
        value: &Value,
        text: String,
        tokens: &[String],
    ) -> Result<Self> {
        let notes = RefCell::default();
        let at = &Location { file, key: String::new(), notes: &notes };
        let map = at.map(value)?;
        at.check_keys(
            map,
            &[
                "merge_method",
                "models",
                "slices",
                "modules",
                "base_model",
                "parameters",
                "dtype",
                "out_dtype",
                "tokenizer_source",
                "tokenizer",
                "chat_template",
                "name",
            ],
        )?;
        let missing = || {
            at.bad(
                "merge_method",
                "it is missing",
                "add one, such as merge_method: linear; `help methods` lists the methods",
            )
        };
        let method = find(&at.text(map, "merge_method")?.ok_or_else(missing)?)?;
        let module = module(at, map)?;
        let (place, what) = module.as_ref().map_or((at, map), |(place, what)| (place, *what));
        let (slices, whole) = inputs(place, what, method)?;
        let of_module = match &module {
            Some((place, what)) => place.settings(what, method, Level::Merge)?,
            None => super::Settings::new(),
        };
        // The output dtype is `out_dtype`, else `dtype`. The dtype of mergekit's computation does
        // not matter here.
        let dtype = match (at.dtype(map, "out_dtype")?, map.get("dtype")) {
            (Some(written), Some(Value::String(name))) if name.ends_with("float64") => {
                at.note("`dtype`: computation is always in float32".into());
                Some(written)
            }
            (written, _) => written.or(at.dtype(map, "dtype")?),
        };
        let recipe = Self {
            file: file.into(),
            text,
            name: at.text(map, "name")?,
            method,
            slices,
            whole,
            base: reference(at, map, "base_model")?,
            dtype,
            tokenizer: TokenizerKeys::read(at, map, tokens)?,
            chat: Template::read(at, map)?,
            parameters: [of_module, at.settings(map, method, Level::Merge)?],
            notes: Vec::new(),
        };
        Ok(Self { notes: notes.take(), ..recipe })
    }
}

/// Returns the single module of `modules`, which text models have.
fn module<'a, 'v>(
    at: &Location<'a>,
    map: &'v Map<String, Value>,
) -> Result<Option<(Location<'a>, &'v Map<String, Value>)>> {
    let Some(modules) = map.get("modules").filter(|modules| !modules.is_null()) else {
        return Ok(None);
    };
    let inner = at.inner("modules");
    let modules = inner.map(modules)?;
    if let Some(other) = modules.keys().find(|name| *name != "default") {
        let hint = "write its `models` or `slices` at the top level: `models` merges all parts of a model, `slices` stacks \
                    the layers of its text and takes the other parts from the first slice";
        return Err(inner.bad(other, "only the module `default` is supported", hint));
    }
    let Some(default) = modules.get("default") else {
        return Err(inner.wrong("it is empty", "add modules: {default: {slices: ...}}"));
    };
    let at = inner.inner("default");
    let default = at.map(default)?;
    at.check_keys(default, &["slices", "models", "parameters"])?;
    if let Some(twice) =
        ["models", "slices"].into_iter().find(|key| map.get(*key).is_some_and(|v| !v.is_null()))
    {
        return Err(inner.wrong(
            format!("the recipe also has `{twice}`"),
            "keep one of `models`, `slices` and `modules`",
        ));
    }
    Ok(Some((at, default)))
}

/// Returns the slices, or a single one for whole models.
fn inputs(
    at: &Location<'_>,
    map: &Map<String, Value>,
    method: &MethodEntry,
) -> Result<(Vec<Slice>, bool)> {
    let given = |key: &str| map.get(key).filter(|value| !value.is_null());
    match (given("models"), given("slices")) {
        (Some(models), None) => {
            let inputs =
                at.inner("models").list(models, |at, value| Input::read(&at, value, method))?;
            Ok((vec![Slice { inputs, base: None, parameters: super::Settings::new() }], true))
        }
        (None, Some(slices)) => {
            let slices = at
                .inner("slices")
                .list(slices, |at, value| Slice::read(&at, at.map(value)?, method))?;
            Ok((slices, false))
        }
        (models, _) => {
            let what = if models.is_some() { "found both" } else { "found neither" };
            let hint = "use `models` to merge whole models, or `slices` to merge ranges of layers";
            Err(at.bad("models", format!("expected either `models` or `slices`, {what}"), hint))
        }
    }
}

impl Slice {
    fn read(at: &Location<'_>, map: &Map<String, Value>, method: &MethodEntry) -> Result<Self> {
        // mergekit reads `residual_weight` and ignores it.
        at.check_keys(map, &["sources", "base_model", "parameters", "residual_weight"])?;
        if map.contains_key("residual_weight") {
            at.note(format!("`{}` has no effect, as in mergekit", at.inner("residual_weight").key));
        }
        let missing = || {
            at.bad("sources", "it is missing", "add sources: [{model: ..., layer_range: [0, 16]}]")
        };
        let sources = map.get("sources").ok_or_else(missing)?;
        let inputs =
            at.inner("sources").list(sources, |at, value| Input::read(&at, value, method))?;
        Ok(Self {
            inputs,
            base: reference(at, map, "base_model")?,
            parameters: at.settings(map, method, Level::Merge)?,
        })
    }
}

impl Input {
    fn read(at: &Location<'_>, value: &Value, method: &MethodEntry) -> Result<Self> {
        // A bare name is a model.
        let Value::Object(map) = value else {
            return Ok(Self {
                model: one(at, value)?,
                layers: None,
                parameters: super::Settings::new(),
            });
        };
        at.check_keys(map, &["model", "layer_range", "parameters"])?;
        let missing =
            || at.bad("model", "it is missing", "add model: PATH, or the name of a loaded source");
        let model = reference(at, map, "model")?.ok_or_else(missing)?;
        Ok(Self {
            model,
            layers: at.range(map, "layer_range")?,
            parameters: at.settings(map, method, Level::Model)?,
        })
    }
}
