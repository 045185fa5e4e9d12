//! The configuration of a model with restacked layers: updates the number of layers, and reorders
//! per-layer settings.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::loaded::Source;
use crate::checkpoint::config::Architecture;
use crate::checkpoint::tensors::{KeyPath, Stack, Stacks, count_paths};
use crate::error::{Error, Result};

/// A configuration with restacked layers.
pub(crate) struct Restacked {
    /// config.json.
    pub config: Vec<u8>,
    /// Its architecture; `None` if it is not supported.
    pub architecture: Option<Architecture>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Keys that select layers by index or count, so that they may select different layers in a new
/// stack.
const INDEX_KEYS: [&str; 9] = [
    "first_k_dense_replace",
    "max_window_layers",
    "sliding_window_pattern",
    "no_rope_layer_interval",
    "decoder_sparse_step",
    "moe_layer_freq",
    "full_attention_interval",
    "attn_layer_period",
    "num_kv_shared_layers",
];

impl Source {
    /// Parses its config.json.
    ///
    /// # Errors
    /// A file that is missing or not a JSON object.
    pub(crate) fn configuration(&self) -> Result<Map<String, Value>> {
        let file = self.path().join("config.json");
        let bytes = self.side_file("config.json")?;
        let invalid = |e: serde_json::Error| Error::Json { file, reason: e.to_string() };
        serde_json::from_slice(bytes.as_deref().unwrap_or_default()).map_err(invalid)
    }

    /// Finds its layer stacks.
    ///
    /// # Errors
    /// As for [`Source::configuration`].
    pub(crate) fn stacks(&self) -> Result<Stacks> {
        Ok(Stacks::of(self.tensors().iter().map(|spec| spec.name.as_str()), &self.configuration()?))
    }

    /// Its configuration if layer `i` of `stack` is layer `layers[i].1` of the source
    /// `layers[i].0`.
    ///
    /// # Errors
    /// A config.json that is not a JSON object.
    pub(crate) fn restacked(
        &self,
        stack: &Stack,
        layers: &[(&Source, usize)],
    ) -> Result<Restacked> {
        let mut notes = Vec::new();
        let mut config = self.configuration()?;
        let count_paths = count_paths(&config, stack);
        if count_paths.is_empty() {
            let name = stack.name();
            notes.push(format!(
                "config.json does not give the number of layers of `{name}`, so it was not updated"
            ));
        }
        for key_path in &count_paths {
            for (key, old) in lists(&config, key_path, stack.depth) {
                let of_layer = |(source, layer): &(&Source, usize)| -> Result<Option<Value>> {
                    let theirs = source.configuration()?;
                    Ok(map_at(&theirs, key_path)
                        .and_then(|map| map.get(&key))
                        .and_then(|list| entry(list, *layer)))
                };
                let moved = match &old {
                    Value::Array(all) if is_indices(&key, all, stack.depth) => {
                        let named: BTreeSet<usize> = all
                            .iter()
                            .filter_map(Value::as_u64)
                            .map(|layer| layer as usize)
                            .collect();
                        let new = layers
                            .iter()
                            .enumerate()
                            .filter(|(_, (_, layer))| named.contains(layer))
                            .map(|(i, _)| json!(i));
                        Some(Value::Array(new.collect()))
                    }
                    Value::String(_) => {
                        let letters =
                            layers.iter().map(of_layer).collect::<Result<Option<Vec<Value>>>>()?;
                        letters.map(|all| {
                            Value::String(all.iter().filter_map(Value::as_str).collect())
                        })
                    }
                    _ => layers
                        .iter()
                        .map(of_layer)
                        .collect::<Result<Option<Vec<Value>>>>()?
                        .map(Value::Array),
                };
                match (moved, map_at_mut(&mut config, key_path)) {
                    (Some(moved), Some(map)) => drop(map.insert(key, moved)),
                    _ => notes.push(format!(
                        "`{key}` in config.json has one entry per layer, but not all models have it"
                    )),
                }
            }
            if let (Some(key), Some(map)) = (key_path.last(), map_at_mut(&mut config, key_path)) {
                map.insert(key.clone(), layers.len().into());
                let by_index: Vec<&str> = INDEX_KEYS
                    .into_iter()
                    .filter(|key| map.get(*key).is_some_and(|v| !v.is_null()))
                    .collect();
                if !by_index.is_empty() {
                    notes.push(format!(
                        "config.json selects layers by index ({}): check that this is correct for the new stack",
                        by_index.join(", ")
                    ));
                }
            }
        }
        let file = self.path().join("config.json");
        let (config, architecture) = make_explicit(&file, config, layers, &mut notes)?;
        Ok(Restacked { config, architecture, notes })
    }
}

/// Serializes and parses `config`. If a layer would attend differently in its new position, writes
/// out the setting of its old position.
fn make_explicit(
    file: &Path,
    mut config: Map<String, Value>,
    layers: &[(&Source, usize)],
    notes: &mut Vec<String>,
) -> Result<(Vec<u8>, Option<Architecture>)> {
    let written = |config: &Map<String, Value>| -> Result<(Vec<u8>, Option<Architecture>)> {
        let invalid =
            |e: serde_json::Error| Error::Json { file: file.into(), reason: e.to_string() };
        let bytes = serde_json::to_vec(config).map_err(invalid)?;
        let architecture = Architecture::parse(file, &bytes).ok();
        Ok((bytes, architecture))
    };
    let (bytes, architecture) = written(&config)?;
    let known =
        layers.iter().map(|(source, layer)| source.architecture().ok()?.attention.get(*layer));
    let (Some(new), Some(old)) = (&architecture, known.collect::<Option<Vec<_>>>()) else {
        return Ok((bytes, architecture));
    };
    let fits = |new: &Architecture| new.attention.iter().eq(old.iter().copied());
    if fits(new) {
        return Ok((bytes, architecture));
    }
    let kinds =
        old.iter().map(|a| if a.window.is_some() { "sliding_attention" } else { "full_attention" });
    config.insert("layer_types".into(), kinds.collect::<Vec<_>>().into());
    if new.family == "smollm3" {
        config.insert(
            "no_rope_layers".into(),
            old.iter().map(|a| u8::from(a.rope.is_some())).collect::<Vec<_>>().into(),
        );
    }
    match written(&config)? {
        (bytes, Some(new)) if fits(&new) => Ok((bytes, Some(new))),
        _ => {
            notes.push("some layers attend differently in their new positions, because config.json selects them by index".into());
            Ok((bytes, architecture))
        }
    }
}

/// The object in `config` that contains the last key of `key_path`.
fn map_at<'a>(
    config: &'a Map<String, Value>,
    key_path: &KeyPath,
) -> Option<&'a Map<String, Value>> {
    key_path[..key_path.len().saturating_sub(1)]
        .iter()
        .try_fold(config, |map, key| map.get(key)?.as_object())
}

fn map_at_mut<'a>(
    config: &'a mut Map<String, Value>,
    key_path: &KeyPath,
) -> Option<&'a mut Map<String, Value>> {
    key_path[..key_path.len().saturating_sub(1)]
        .iter()
        .try_fold(config, |map, key| map.get_mut(key)?.as_object_mut())
}

/// The settings next to the last key of `key_path` that have one entry per layer, of `depth`.
fn lists(config: &Map<String, Value>, key_path: &KeyPath, depth: usize) -> Vec<(String, Value)> {
    let of_layers = |key: &str| {
        ["layer", "block", "head", "multiplier", "pattern", "types", "window"]
            .iter()
            .any(|part| key.contains(part))
    };
    let fits = |(key, value): &(&String, &Value)| match value {
        Value::Array(all) => of_layers(key) && (all.len() == depth || is_indices(key, all, depth)),
        Value::String(letters) => key.contains("pattern") && letters.chars().count() == depth,
        _ => false,
    };
    let found = map_at(config, key_path).into_iter().flatten().filter(fits);
    found.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether a list contains layer indices, as in `mlp_only_layers`, rather than one entry per layer.
fn is_indices(key: &str, all: &[Value], depth: usize) -> bool {
    let numbers: Option<Vec<u64>> = all.iter().map(Value::as_u64).collect();
    let rising = |n: &Vec<u64>| {
        n.windows(2).all(|w| w[0] < w[1]) && n.iter().all(|layer| (*layer as usize) < depth)
    };
    let flags = all.len() == depth && key != "mlp_only_layers";
    (key.ends_with("layers") || key.ends_with("layer_indices") || key.ends_with("layers_idx"))
        && !flags
        && numbers.is_some_and(|n| !n.is_empty() && rising(&n))
}

/// The entry of `list` for a layer.
fn entry(list: &Value, layer: usize) -> Option<Value> {
    match list {
        Value::Array(all) => all.get(layer).cloned(),
        Value::String(letters) => {
            letters.chars().nth(layer).map(|letter| letter.to_string().into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_layer_lists_are_distinguished_from_layer_indices_and_others() {
        let config = json!({
            "num_hidden_layers": 3, "layer_types": ["a", "b", "a"], "mlp_only_layers": [0, 2], "eos_token_id": [1, 2, 3],
            "hybrid_override_pattern": "M*M", "architectures": ["X"], "no_rope_layers": [1, 0, 1], "layers": [7, 8],
        });
        let found = lists(config.as_object().unwrap(), &vec!["num_hidden_layers".into()], 3);
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            ["hybrid_override_pattern", "layer_types", "mlp_only_layers", "no_rope_layers"]
        );
        assert!(is_indices("mlp_only_layers", &[json!(0), json!(2)], 3));
        assert!(!is_indices("no_rope_layers", &[json!(0), json!(1), json!(2)], 3));
    }
}
