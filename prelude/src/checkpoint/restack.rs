//! A model whose layers are stacked anew: its configuration, and what that makes it.

use serde_json::{Map, Value, json};

use super::Source;
use super::config::{Architecture, TensorSpec, get, set};
use crate::error::{Error, Result};

/// A configuration with other layers.
pub(crate) struct Restacked {
    /// config.json.
    pub config: Vec<u8>,
    /// What it says.
    pub architecture: Architecture,
    /// Its tensors, those beside the decoder among them.
    pub tensors: Vec<TensorSpec>,
}

impl Source {
    /// Its configuration where layer `i` is what its layer `layers[i]` was.
    ///
    /// # Errors
    /// A layer that it lacks, or that would attend otherwise in its new place.
    pub(crate) fn restacked(&self, layers: &[usize]) -> Result<Restacked> {
        let old = self.architecture()?;
        let differs = |difference: String| Error::Sources {
            what: format!("the layers of `{}` cannot be stacked so: {difference}", self.name()),
            hint: "a layer attends as its place in config.json says: move only layers that attend alike",
        };
        if let Some(missing) = layers.iter().find(|layer| **layer >= old.layers) {
            return Err(differs(format!("it has {} layers, and no layer {missing}", old.layers)));
        }
        let file = self.path().join("config.json");
        let bytes = self.side_file("config.json")?;
        let json = |e: serde_json::Error| Error::Json { file: file.clone(), reason: e.to_string() };
        let mut config: Map<String, Value> = serde_json::from_slice(bytes.as_deref().unwrap_or_default()).map_err(json)?;
        set(&mut config, "num_hidden_layers", json!(layers.len()));
        move_layers(&mut config, layers, old.layers);
        let config = serde_json::to_vec(&config).map_err(json)?;
        let architecture = Architecture::parse(&file, &config)?;
        match layers.iter().enumerate().find(|(new, layer)| architecture.attends.get(*new) != old.attends.get(**layer)) {
            Some((new, layer)) => Err(differs(format!("layer {layer} would attend otherwise as layer {new}"))),
            None => {
                let tensors = architecture.tensors().into_iter().chain(self.rest().iter().cloned()).collect();
                Ok(Restacked { config, architecture, tensors })
            }
        }
    }
}

/// Makes layer `i` what layer `layers[i]` of `count` was, in the lists of a configuration that say something of each.
pub(super) fn move_layers(config: &mut Map<String, Value>, layers: &[usize], count: usize) {
    for key in ["layer_types", "no_rope_layers"] {
        if let Some(Value::Array(all)) = get(config, key).filter(|list| list.as_array().is_some_and(|l| l.len() == count)) {
            let moved: Vec<Value> = layers.iter().map(|layer| all[*layer].clone()).collect();
            set(config, key, moved.into());
        }
    }
}
