//! Differences between the configurations of two sources. They do not prevent averaging the
//! weights, but the merge can have only one value per key, so they are reported.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::loaded::Source;
use crate::checkpoint::config::Architecture;
use crate::error::Result;

/// Keys of config.json that do not affect what a model computes.
const IGNORED_KEYS: [&str; 17] = [
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "label2id",
    "pretraining_tp",
    "problem_type",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "unsloth_version",
    "use_cache",
    "vocab_size",
    "name_or_path",
];

/// A key of config.json with the values of two sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigDifference {
    pub key: String,
    pub values: [String; 2],
}

impl Source {
    /// The keys that affect the model's computation and differ from those of `other`.
    ///
    /// # Errors
    /// A config.json that is missing or not a JSON object.
    pub(crate) fn config_differences(&self, other: &Source) -> Result<Vec<ConfigDifference>> {
        let (one, two) = (self.configuration()?, other.configuration()?);
        let mut found = differences(&one, &two);
        if let (Ok(a), Ok(b)) = (self.architecture(), other.architecture()) {
            found.retain(|difference| counts(&difference.key, (a, &one), (b, &two)));
        }
        Ok(found)
    }
}

/// Whether two supported configurations mean different things by `key`, rather than the same in
/// different notation.
fn counts(
    key: &str,
    a: (&Architecture, &Map<String, Value>),
    b: (&Architecture, &Map<String, Value>),
) -> bool {
    if key.starts_with("rope_") {
        return a.0.ropes != b.0.ropes;
    }
    let outer = key.split('.').next().unwrap_or(key);
    let mut changed = a.1.clone();
    match b.1.get(outer) {
        Some(value) => drop(changed.insert(outer.to_owned(), value.clone())),
        None => drop(changed.remove(outer)),
    }
    let parsed = serde_json::to_vec(&changed)
        .ok()
        .and_then(|bytes| Architecture::parse(Path::new("config.json"), &bytes).ok());
    parsed.is_none_or(|parsed| {
        Architecture { vocabulary: a.0.vocabulary, eos: a.0.eos.clone(), ..parsed } != *a.0
    })
}

fn differences(a: &Map<String, Value>, b: &Map<String, Value>) -> Vec<ConfigDifference> {
    let (a, b) = (flat(a), flat(b));
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let value = |map: &BTreeMap<String, Value>, key: &str| {
        map.get(key).map_or_else(|| "unset".to_owned(), short)
    };
    keys.into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| ConfigDifference { key: key.clone(), values: [value(&a, key), value(&b, key)] })
        .collect()
}

/// All values by key, such as `text_config.rope_theta`, in one notation: transformers 4 has
/// `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`.
fn flat(config: &Map<String, Value>) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    collect("", config, &mut found);
    found
}

fn collect(prefix: &str, map: &Map<String, Value>, found: &mut BTreeMap<String, Value>) {
    for (key, value) in map {
        let silent = |key: &str| {
            IGNORED_KEYS.contains(&key) || key.contains("dropout") || key.contains("token_id")
        };
        // Disabled settings count as missing.
        if value.is_null()
            || *value == Value::Bool(false)
            || silent(key)
            || key.starts_with("_attn")
            || key.starts_with("output_")
        {
            continue;
        }
        match (key.as_str(), value) {
            ("rope_parameters" | "rope_scaling", Value::Object(inner)) => {
                rope(prefix, inner, found)
            }
            (_, Value::Object(inner)) => collect(&format!("{prefix}{key}."), inner, found),
            _ => drop(found.insert(format!("{prefix}{key}"), number(value))),
        }
    }
}

/// Collects a rotary embedding; the type `default` counts as missing.
fn rope(prefix: &str, map: &Map<String, Value>, found: &mut BTreeMap<String, Value>) {
    for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        match (key.as_str(), value) {
            ("type" | "rope_type", Value::String(kind)) if kind == "default" => {}
            ("type" | "rope_type", _) => {
                drop(found.insert(format!("{prefix}rope_scaling.rope_type"), value.clone()))
            }
            ("rope_theta", _) => drop(found.insert(format!("{prefix}rope_theta"), number(value))),
            (_, Value::Object(inner)) => rope(&format!("{prefix}{key}."), inner, found),
            _ => drop(found.insert(format!("{prefix}rope_scaling.{key}"), number(value))),
        }
    }
}

/// Makes 10000 and 10000.0 equal.
fn number(value: &Value) -> Value {
    match value.as_f64() {
        Some(x) => x.into(),
        None => value.clone(),
    }
}

/// A value, truncated to one line.
fn short(value: &Value) -> String {
    const MAX_CHARACTERS: usize = 60;
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.as_f64().map_or_else(|| other.to_string(), |x| x.to_string()),
    };
    if text.chars().count() > MAX_CHARACTERS {
        format!("{}...", text.chars().take(MAX_CHARACTERS).collect::<String>())
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(a: &Value, b: &Value) -> Vec<String> {
        let differences = differences(a.as_object().unwrap(), b.as_object().unwrap());
        differences
            .into_iter()
            .map(|d| format!("{} {} {}", d.key, d.values[0], d.values[1]))
            .collect()
    }

    #[test]
    fn both_notations_are_compared_and_keys_without_effect_are_ignored() {
        let old = json!({"rope_theta": 10000, "rope_scaling": null, "torch_dtype": "float16", "attention_dropout": 0.1});
        let new = json!({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "dtype": "bfloat16"});
        assert_eq!(found(&old, &new), [""; 0]);
        let scaled = json!({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}, "sliding_window": 4096});
        let expected = [
            "rope_scaling.factor unset 2",
            "rope_scaling.rope_type unset linear",
            "rope_theta 10000 1000000",
            "sliding_window unset 4096",
        ];
        assert_eq!(found(&old, &scaled), expected);
        let nested = |eps: f64| json!({"text_config": {"rms_norm_eps": eps, "vocab_size": eps}});
        assert_eq!(
            found(&nested(1e-5), &nested(1e-6)),
            ["text_config.rms_norm_eps 0.00001 0.000001"]
        );
    }
}
