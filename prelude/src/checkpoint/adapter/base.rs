//! The model that adapters are put on: its tensors and its configuration, before they become a source.
//!
//! A tied model has no output layer of its own: it is the embedding. Where one of its own is there, and differs, the
//! model is untied: `tie_word_embeddings` becomes false, so that nothing that reads it passes the output layer over.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::config::{Architecture, Kind, TensorSpec};
use super::super::other::{OUTPUT, kind};
use super::super::view::View;
use crate::error::{Error, Result};

/// A model under change.
pub(in crate::checkpoint) struct Base<'a> {
    config_file: &'a Path,
    /// config.json, as it is by now.
    pub config: Vec<u8>,
    /// Whether that is other than the file.
    pub is_changed: bool,
    pub tensors: &'a mut BTreeMap<String, View>,
    pub family: String,
    /// The name of its embedding.
    pub embedding: Option<String>,
    /// The name of its output layer, whether it has one of its own or not.
    pub output: String,
    pub is_tied: bool,
    /// What a reader should know.
    pub notes: Vec<String>,
}

impl<'a> Base<'a> {
    /// The model of `config`, the bytes of `config_file`, and `tensors`; untied where it stores another output layer
    /// than its embedding.
    ///
    /// # Errors
    /// A configuration that is no JSON object.
    pub fn new(config_file: &'a Path, config: Vec<u8>, tensors: &'a mut BTreeMap<String, View>) -> Result<Self> {
        let family = Architecture::family_of(config_file, &config)?;
        // Elsewhere than in the families that run, it is the largest that seems to be one.
        let seems = |(name, view): &(&String, &View)| kind(name, view.shape.len()) == Kind::Embedding;
        let embedding = match tensors.contains_key(TensorSpec::EMBEDDING) {
            true => Some(TensorSpec::EMBEDDING.to_owned()),
            false => tensors.iter().filter(seems).max_by_key(|(_, view)| view.shape[0]).map(|(name, _)| name.clone()),
        };
        let stored = tensors.keys().find(|name| is_part(name, OUTPUT)).cloned();
        // Within a multimodal model the output layer may stand beside the text model.
        let inside = embedding.as_ref().is_some_and(|name| name.starts_with("language_model."));
        let output = stored.unwrap_or_else(|| if inside { format!("language_model.{OUTPUT}") } else { OUTPUT.into() });
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
        base.is_tied = base.says_tied()?;
        if base.is_tied && base.tensors.contains_key(&base.output) && !base.has_one_vocabulary_tensor()? {
            base.untie("its checkpoint has an output layer that differs from the embedding which config.json ties it to")?;
        }
        Ok(base)
    }

    /// Whether the configuration ties the output layer to an embedding that is there.
    fn says_tied(&self) -> Result<bool> {
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

    /// Whether embedding and output layer are the same numbers.
    pub fn has_one_vocabulary_tensor(&self) -> Result<bool> {
        let embedding = self.embedding.as_ref().and_then(|name| self.tensors.get(name));
        match (embedding, self.tensors.get(&self.output)) {
            (Some(embedding), Some(output)) => Ok(embedding.has_values_of(output)),
            _ => Ok(true),
        }
    }

    /// The model has an output layer of its own from here on.
    ///
    /// # Errors
    /// As for [`Base::edit`].
    pub fn untie(&mut self, why: &str) -> Result<()> {
        self.is_tied = false;
        self.notes.push(format!("untied, since {why}: `{}` is stored on its own", self.output));
        self.edit(untied)
    }

    /// Changes the configuration.
    ///
    /// # Errors
    /// A configuration that is no JSON object.
    pub fn edit(&mut self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        let mut map = self.map()?;
        change(&mut map);
        self.config = serde_json::to_vec_pretty(&map).map_err(|e| self.invalid(&e))?;
        self.is_changed = true;
        Ok(())
    }

    /// The configuration, key by key.
    ///
    /// # Errors
    /// A configuration that is no JSON object.
    pub fn map(&self) -> Result<Map<String, Value>> {
        serde_json::from_slice(&self.config).map_err(|e| self.invalid(&e))
    }

    fn invalid(&self, error: &serde_json::Error) -> Error {
        Error::Json { file: self.config_file.into(), reason: error.to_string() }
    }
}

/// Says in a configuration that the output layer is not the embedding; in its text model's too, where it has one.
pub(in crate::checkpoint) fn untied(config: &mut Map<String, Value>) {
    set(config, "tie_word_embeddings", &json!(false));
}

/// Sets `key`, in the configuration of a text model inside too.
pub(super) fn set(config: &mut Map<String, Value>, key: &str, value: &Value) {
    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        text.insert(key.into(), value.clone());
        // What a wrapper does not say of its text model, it is not to say now.
        if key != "tie_word_embeddings" && !config.contains_key(key) {
            return;
        }
    }
    config.insert(key.into(), value.clone());
}

/// Whether `name` is `end`, or ends with it after a dot.
fn is_part(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
