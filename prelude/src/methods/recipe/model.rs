//! References to models in a recipe: `PATH`, `ORG/NAME@REVISION`, `MODEL+ADAPTER`, or the same as
//! keys, `{model: {path, revision}, lora: ...}`. All become specs that `load` accepts.

use serde_json::{Map, Value};

use super::location::Location;
use crate::error::Result;

/// Returns the model at `key` of `map`, if the key exists.
pub(super) fn reference(
    at: &Location<'_>,
    map: &Map<String, Value>,
    key: &str,
) -> Result<Option<String>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => one(&at.inner(key), value).map(Some),
    }
}

/// Returns the model that `value` names.
pub(super) fn one(at: &Location<'_>, value: &Value) -> Result<String> {
    let Value::Object(map) = value else { return path(at, value) };
    // A path and revision alone are the inner `model` of mergekit's longer form.
    if map.contains_key("path") && !map.contains_key("model") {
        return path(at, value);
    }
    at.check_keys(map, &["model", "lora", "override_architecture"])?;
    let Some(model) = map.get("model") else {
        return Err(at.bad("model", "it is missing", "add model: PATH or model: {path: PATH}"));
    };
    let model = path(&at.inner("model"), model)?;
    if map.get("override_architecture").is_some_and(|name| !name.is_null()) {
        at.note(format!(
            "`{}` has no effect: tensors are merged as they are stored",
            at.inner("override_architecture").key
        ));
    }
    match map.get("lora").filter(|lora| !lora.is_null()) {
        Some(lora) => Ok(format!("{model}+{}", path(&at.inner("lora"), lora)?)),
        None => Ok(model),
    }
}

/// `PATH`, `PATH@REVISION` or `{path: PATH, revision: REVISION}`.
fn path(at: &Location<'_>, value: &Value) -> Result<String> {
    let expected =
        || at.wrong("expected a model", "write a path, ORG/NAME, or {path: ..., revision: ...}");
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        // Numbers are valid names: `model: 7`.
        Value::Number(number) => Ok(number.to_string()),
        Value::Object(map) => {
            at.check_keys(map, &["path", "revision"])?;
            let path = at.text(map, "path")?.ok_or_else(expected)?;
            Ok(match at.text(map, "revision")? {
                Some(revision) => format!("{path}@{revision}"),
                None => path,
            })
        }
        _ => Err(expected()),
    }
}
