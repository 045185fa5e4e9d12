//! Sources in a shared token numbering, and with separate output layers.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::loaded::{Inner, Source};
use super::numbering::{NO_ROW, Numbering, Renumbered};
use super::vocabulary::align;
use crate::checkpoint::adapter;
use crate::checkpoint::config::{Architecture, Kind, TensorSpec};
use crate::checkpoint::storage::Bytes;
use crate::checkpoint::tensors::unsupported_family::OUTPUT;
use crate::error::{Error, Result};

impl Source {
    /// The source as it was opened, with its own token numbering.
    pub(crate) fn original(&self) -> &Self {
        self.0.original.as_ref().unwrap_or(self)
    }

    /// The shared token numbering, if it differs from the one on disk.
    pub(crate) fn numbering(&self) -> Option<&Numbering> {
        self.0.numbering.as_deref()
    }

    /// Whether its output layer is its embedding.
    pub(super) fn is_tied(&self) -> Result<bool> {
        if let Some(architecture) = &self.0.architecture {
            return Ok(architecture.tied);
        }
        let says_so = self.config_json()?.get("tie_word_embeddings") == Some(&Value::Bool(true));
        Ok(says_so && !self.0.views.contains_key(OUTPUT) && self.embedding().is_some())
    }

    /// Its embedding; if there are several candidates, the one with the most rows.
    fn embedding(&self) -> Option<&TensorSpec> {
        let embeddings =
            self.0.tensors.iter().filter(|t| t.kind == Kind::Embedding && t.shape.len() == 2);
        embeddings.max_by_key(|t| t.shape[0])
    }

    /// Parses config.json.
    fn config_json(&self) -> Result<Map<String, Value>> {
        let bytes = self.side_file("config.json")?.unwrap_or(Bytes::Static(b"{}"));
        serde_json::from_slice(&bytes).map_err(|e| self.json(&e))
    }

    fn json(&self, error: &serde_json::Error) -> Error {
        Error::Json { file: self.path().join("config.json"), reason: error.to_string() }
    }

    /// This tied source with a separate output layer, a copy of its embedding.
    ///
    /// # Errors
    /// A config.json that is not a JSON object.
    fn untied(&self) -> Result<Self> {
        let inner = &self.0;
        let Some(embedding) = self.embedding().cloned() else { return Ok(self.clone()) };
        let architecture = inner.architecture.clone().map(|a| Architecture { tied: false, ..a });
        let output = architecture.as_ref().map_or(OUTPUT, Architecture::output).to_owned();
        let tensors = match &architecture {
            Some(architecture) => architecture.tensors(),
            None => {
                let spec = TensorSpec {
                    name: output.clone(),
                    kind: Kind::Linear,
                    shape: embedding.shape.clone(),
                };
                let place = inner.tensors.partition_point(|t| t.name < spec.name);
                let (before, after) = inner.tensors.split_at(place);
                before.iter().chain([&spec]).chain(after).cloned().collect()
            }
        };
        let mut views = inner.views.clone();
        views.insert(output, self.view(&embedding.name)?.clone());
        let mut config = self.config_json()?;
        adapter::untied(&mut config);
        let config = serde_json::to_vec_pretty(&config).map_err(|e| self.json(&e))?;
        let mut replaced = inner.replaced.clone();
        replaced.insert("config.json", Some(Bytes::Owned(Arc::new(config))));
        let note =
            "tied, but another source is not: its embedding is also merged as the output layer";
        let notes = inner.notes.iter().cloned().chain([note.to_owned()]).collect();
        let original = Some(self.original().clone());
        Ok(Self(Arc::new(Inner {
            architecture,
            tensors,
            views,
            replaced,
            notes,
            original,
            ..inner.copy()
        })))
    }

    /// This source with another token numbering.
    ///
    /// # Errors
    /// A config.json that is not a JSON object.
    pub(crate) fn with_numbering(&self, seen: Renumbered) -> Result<Self> {
        let Renumbered { numbering, rows, views: gathered, extended } = seen;
        let inner = &self.0;
        let here = |id: u32| match numbering.row_map.get(id as usize) {
            Some(row) => Some(*row).filter(|row| *row != NO_ROW),
            None => Some(id),
        };
        let architecture = inner.architecture.clone().map(|a| {
            let eos = a.eos.iter().filter_map(|id| here(*id)).collect();
            Architecture { vocabulary: rows, eos, ..a }
        });
        let mut tensors = inner.tensors.clone();
        for spec in tensors.iter_mut().filter(|spec| gathered.contains_key(&spec.name)) {
            spec.shape[0] = rows;
        }
        let mut views = inner.views.clone();
        views.extend(gathered);
        let config = self.side_file("config.json")?.unwrap_or(Bytes::Static(b"{}"));
        let config = config_of(&config, rows, here).map_err(|e| self.json(&e))?;
        let (tokenizer, file) = extended
            .map_or_else(|| (inner.tokenizer.clone(), None), |(t, file)| (Some(t), Some(file)));
        let files = [("config.json", Some(config)), ("tokenizer.json", file)];
        let mut replaced = inner.replaced.clone();
        replaced.extend(
            files
                .into_iter()
                .filter_map(|(name, bytes)| Some((name, Some(Bytes::Owned(Arc::new(bytes?)))))),
        );
        let (original, numbering) = (Some(self.original().clone()), Some(Arc::new(numbering)));
        Ok(Self(Arc::new(Inner {
            architecture,
            tensors,
            views,
            tokenizer,
            original,
            numbering,
            replaced,
            ..inner.copy()
        })))
    }

    /// Maps the token `id` of its own tokenizer to a row here; `None` if it has no row.
    pub(crate) fn row_of(&self, id: u32) -> Option<u32> {
        match self.numbering().filter(|numbering| !numbering.is_reference) {
            Some(numbering) => {
                numbering.row_map.get(id as usize).copied().filter(|row| *row != NO_ROW)
            }
            None => Some(id).filter(|id| (*id as usize) < self.vocabulary_rows()),
        }
    }
}

/// Gives `sources` a shared token numbering if their vocabularies differ.
///
/// # Errors
/// Tokenizers of which none can split text into the tokens of all.
pub(crate) fn with_shared_numbering(sources: &[Source]) -> Result<Vec<Source>> {
    let sources: Vec<Source> = sources.iter().map(|s| s.original().clone()).collect();
    let tied = sources.iter().map(Source::is_tied).collect::<Result<Vec<_>>>()?;
    // If one source has a separate output layer, all get one.
    let is_mixed = tied.contains(&true) && tied.contains(&false);
    let one = |(source, tied): (Source, bool)| {
        if tied && is_mixed { source.untied() } else { Ok(source) }
    };
    let sources = sources.into_iter().zip(tied).map(one).collect::<Result<Vec<_>>>()?;
    match align(&sources)? {
        Some(seen) => {
            sources.iter().zip(seen).map(|(source, seen)| source.with_numbering(seen)).collect()
        }
        None => Ok(sources),
    }
}

/// config.json with `rows` as its vocabulary size, wherever that appears, and with token ids mapped
/// by `here`; ids without a mapping are removed.
pub(crate) fn config_of(
    json: &[u8],
    rows: usize,
    here: impl Fn(u32) -> Option<u32>,
) -> serde_json::Result<Vec<u8>> {
    let mut config: Map<String, Value> = serde_json::from_slice(json)?;
    renumber(&mut config, rows, &here);
    if !config.values().any(|value| value.get("vocab_size").is_some()) {
        config.insert("vocab_size".into(), rows.into());
    }
    serde_json::to_vec_pretty(&config)
}

fn renumber(config: &mut Map<String, Value>, rows: usize, here: &impl Fn(u32) -> Option<u32>) {
    let id = |value: &Value| match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => here(id).map(Value::from),
        None => Some(value.clone()),
    };
    for (key, value) in config.iter_mut() {
        match (key.as_str(), value) {
            ("vocab_size", value @ Value::Number(_)) => *value = rows.into(),
            ("eos_token_id" | "bos_token_id" | "pad_token_id", Value::Array(all)) => {
                *all = all.iter().filter_map(id).collect()
            }
            ("eos_token_id" | "bos_token_id" | "pad_token_id", value) => {
                *value = id(value).unwrap_or(Value::Null)
            }
            ("text_config", Value::Object(inner)) => renumber(inner, rows, here),
            _ => {}
        }
    }
}
