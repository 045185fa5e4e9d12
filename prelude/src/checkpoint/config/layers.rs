//! The lists in config.json that have one entry per layer.

use serde_json::{Map, Value};

use super::wrapper::{get, set};

/// In the per-layer lists of a configuration with `count` layers, gives layer `i` the entry of
/// layer `layers[i]`.
pub(crate) fn move_layers(config: &mut Map<String, Value>, layers: &[usize], count: usize) {
    for key in ["layer_types", "no_rope_layers"] {
        if let Some(Value::Array(all)) =
            get(config, key).filter(|list| list.as_array().is_some_and(|l| l.len() == count))
        {
            let moved: Vec<Value> = layers.iter().map(|layer| all[*layer].clone()).collect();
            set(config, key, moved.into());
        }
    }
}
