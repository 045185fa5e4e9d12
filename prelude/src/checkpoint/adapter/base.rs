//! The base model that adapters are applied to: tensors and configuration, before they become a
//! source.
//!
//! In a tied model, the output layer is the embedding. If the checkpoint stores an output layer
//! that differs from the embedding, the model is untied: `tie_word_embeddings` becomes false, so
//! that readers do not ignore the output layer.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::checkpoint::config::{Architecture, Kind, TensorSpec};
use crate::checkpoint::storage::View;
use crate::checkpoint::tensors::unsupported_family::{OUTPUT, kind};
use crate::error::{Error, Result};

/// A base model being modified.
pub(in crate::checkpoint) struct Base<'a> {
    config_file: &'a Path,
    /// The current config.json.
    pub config: Vec<u8>,
    /// Whether the current config.json differs from the file.
    pub is_changed: bool,
    pub tensors: &'a mut BTreeMap<String, View>,
    pub family: String,
    /// The name of the embedding.
    pub embedding: Option<String>,
    /// The name of the output layer, stored or tied.
    pub output: String,
    pub is_tied: bool,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl<'a> Base<'a> {
    /// The model with `config` (the bytes of `config_file`) and `tensors`. It is untied if it
    /// stores an output layer that differs from its embedding.
    ///
    /// # Errors
    /// A configuration that is not a JSON object.
    pub fn new(
        config_file: &'a Path,
        config: Vec<u8>,
        tensors: &'a mut BTreeMap<String, View>,
    ) -> Result<Self> {
        let family = Architecture::family_of(config_file, &config)?;
        // In unsupported families, the largest tensor that looks like an embedding.
        let seems =
            |(name, view): &(&String, &View)| kind(name, view.shape.len()) == Kind::Embedding;
        let embedding = if tensors.contains_key(TensorSpec::EMBEDDING) {
            Some(TensorSpec::EMBEDDING.to_owned())
        } else {
            tensors
                .iter()
                .filter(seems)
                .max_by_key(|(_, view)| view.shape[0])
                .map(|(name, _)| name.clone())
        };
        let stored = tensors.keys().find(|name| is_suffix(name, OUTPUT)).cloned();
        // In a multimodal model, the output layer may be stored next to the text model.
        let inside = embedding.as_ref().is_some_and(|name| name.starts_with("language_model."));
        let output = stored.unwrap_or_else(|| {
            if inside { format!("language_model.{OUTPUT}") } else { OUTPUT.into() }
        });
        let mut base = Self {
            config_file,
            config,
            is_changed: false,
            tensors,
            family,
            embedding,
            output,
            is_tied: false,
            notes: Vec::new(),
        };
        base.is_tied = base.config_ties()?;
        if base.is_tied
            && base.tensors.contains_key(&base.output)
            && !base.has_one_vocabulary_tensor()?
        {
            base.untie("the checkpoint stores an output layer that differs from the embedding, although config.json ties them")?;
        }
        Ok(base)
    }

    /// Whether the configuration ties the output layer to an existing embedding.
    fn config_ties(&self) -> Result<bool> {
        if self.embedding.is_none() {
            return Ok(false);
        }
        if let Ok(architecture) = Architecture::parse(self.config_file, &self.config) {
            return Ok(architecture.tied);
        }
        Ok(match self.map()?.get("tie_word_embeddings") {
            Some(Value::Bool(tied)) => *tied,
            _ => !self.tensors.contains_key(&self.output),
        })
    }

    /// Whether embedding and output layer have equal values.
    pub fn has_one_vocabulary_tensor(&self) -> Result<bool> {
        let embedding = self.embedding.as_ref().and_then(|name| self.tensors.get(name));
        match (embedding, self.tensors.get(&self.output)) {
            (Some(embedding), Some(output)) => Ok(embedding.has_values_of(output)),
            _ => Ok(true),
        }
    }

    /// Gives the model an output layer of its own.
    ///
    /// # Errors
    /// As for [`Base::edit`].
    pub fn untie(&mut self, why: &str) -> Result<()> {
        self.is_tied = false;
        self.notes.push(format!("untied, because {why}: `{}` is stored separately", self.output));
        self.edit(untied)
    }

    /// Edits the configuration.
    ///
    /// # Errors
    /// A configuration that is not a JSON object.
    pub fn edit(&mut self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        let mut map = self.map()?;
        change(&mut map);
        self.config = serde_json::to_vec_pretty(&map).map_err(|e| self.invalid(&e))?;
        self.is_changed = true;
        Ok(())
    }

    /// Parses the configuration.
    ///
    /// # Errors
    /// A configuration that is not a JSON object.
    pub fn map(&self) -> Result<Map<String, Value>> {
        serde_json::from_slice(&self.config).map_err(|e| self.invalid(&e))
    }

    fn invalid(&self, error: &serde_json::Error) -> Error {
        Error::Json { file: self.config_file.into(), reason: error.to_string() }
    }
}

/// Marks a configuration, and that of its text model if it has one, as untied.
pub(in crate::checkpoint) fn untied(config: &mut Map<String, Value>) {
    set(config, "tie_word_embeddings", &json!(false));
}

/// Sets `key`, also in the configuration of a nested text model.
pub(super) fn set(config: &mut Map<String, Value>, key: &str, value: &Value) {
    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        text.insert(key.into(), value.clone());
        // Do not add a top-level key that a wrapper did not have.
        if key != "tie_word_embeddings" && !config.contains_key(key) {
            return;
        }
    }
    config.insert(key.into(), value.clone());
}

/// Whether `name` equals `end`, or ends with it after a dot.
fn is_suffix(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
