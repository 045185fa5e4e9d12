//! Reads GGUF files: converts tensors, names, configuration and tokenizer to those of a Hugging
//! Face checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};

use super::container::Container;
use super::metadata::{Metadata, NAMES};
use super::read_config::config;
use super::read_tokenizer::tokenizer_files;
use crate::checkpoint::storage::{Stored, View, interleaved};
use crate::error::{Error, Result};

/// An open GGUF file as a checkpoint.
pub(crate) struct Gguf {
    /// config.json and the tokenizer files, generated from the metadata.
    pub side_files: BTreeMap<&'static str, Arc<Vec<u8>>>,
    /// What could not be converted.
    pub note: Option<String>,
    container: Container,
}

impl Gguf {
    /// Opens and validates a file, and generates the side files of a checkpoint.
    pub fn open(path: PathBuf) -> Result<Self> {
        let container = Container::open(path)?;
        let mut side_files = BTreeMap::from([("config.json", config(&container)?)]);
        let mut note = None;
        match tokenizer_files(&container.metadata(), &container.path)? {
            Ok(files) => side_files.extend(files),
            Err(reason) => note = Some(format!("no tokenizer: {reason}")),
        }
        let bad = |e: serde_json::Error| Error::Gguf {
            file: container.path.clone(),
            reason: e.to_string(),
        };
        let pretty = |value| serde_json::to_vec_pretty(&value).map_err(bad);
        let side_files = side_files
            .into_iter()
            .map(|(name, v)| Ok((name, Arc::new(pretty(v)?))))
            .collect::<Result<_>>()?;
        Ok(Self { side_files, note, container })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.container.path
    }

    /// All tensors with the names and row order of Hugging Face.
    pub fn tensors(&self) -> Result<BTreeMap<String, View>> {
        let mut tensors = BTreeMap::new();
        let gemma = self.container.architecture.starts_with("gemma");
        for (name, info) in &self.container.content.tensor_infos {
            let mut view = self.container.view(name, info)?;
            let Some(new) = self.rename(name) else { continue };
            // Heads of queries and keys; llama.cpp interleaves the halves of each head for its
            // rotation.
            let rotated =
                [("attn_q.", "attention.head_count"), ("attn_k.", "attention.head_count_kv")];
            let turned = rotated.iter().find(|(part, _)| name.contains(part)).filter(|_| {
                ["llama", "smollm3", "granite"].contains(&self.container.architecture.as_str())
            });
            if let Some((_, key)) = turned {
                let heads = self
                    .container
                    .metadata()
                    .own(key)
                    .and_then(Metadata::whole)
                    .unwrap_or(1)
                    .max(1) as usize;
                let (rows, kind) = (view.shape[0], info.ggml_dtype);
                if !rows.is_multiple_of(2 * heads) {
                    let reason = format!("tensor `{name}` has {rows} rows for {heads} heads");
                    return Err(Error::Gguf { file: self.container.path.clone(), reason });
                }
                view.stored = Stored::Interleaved(kind, rows / heads);
            }
            if view.shape.len() == 1 {
                view = self.small(name, &new, view, gemma)?;
            }
            tensors.insert(new, view);
        }
        Ok(tensors)
    }

    /// Copies a norm or bias. llama.cpp adds 1 to gemma's norms and permutes biases like their
    /// weights.
    fn small(&self, name: &str, new: &str, view: View, gemma: bool) -> Result<View> {
        let shape = view.shape.clone();
        let turned = match &view.stored {
            Stored::Interleaved(_, head) => Some(*head),
            _ => None,
        };
        let added = gemma && new.contains("norm");
        if turned.is_none() && !added {
            return Ok(view);
        }
        if !matches!(
            &view.stored,
            Stored::Plain
                | Stored::Interleaved(GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16, _)
        ) {
            return Err(Error::Gguf {
                file: self.container.path.clone(),
                reason: format!("tensor `{name}` must not be stored in blocks"),
            });
        }
        let plain = View { stored: Stored::Plain, ..view };
        let values = plain.to_tensor(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let stored = |row: usize| turned.map_or(row, |head| interleaved(row, head));
        let one = if added { 1.0 } else { 0.0 };
        let values =
            (0..values.len()).flat_map(|row| (values[stored(row)] - one).to_le_bytes()).collect();
        Ok(View::owned(self.container.path.clone(), values, DType::F32, &shape))
    }

    /// Hugging Face's name; `None` for tensors that its checkpoints do not store.
    fn rename(&self, name: &str) -> Option<String> {
        if name.starts_with("rope_f") {
            return None;
        }
        let find = |part: &str| NAMES.iter().find(|(from, _)| *from == part).map(|(_, to)| *to);
        if let Some(rest) = name.strip_prefix("blk.") {
            let (layer, rest) = rest.split_once('.')?;
            let (part, kind) = rest.rsplit_once('.')?;
            let to = match (self.container.architecture.as_str(), part) {
                ("gemma2" | "gemma3", "ffn_norm") => "pre_feedforward_layernorm",
                // Gate and up projections in one tensor.
                ("phi3", "ffn_up") => "mlp.gate_up_proj",
                _ => find(part).unwrap_or(part),
            };
            return Some(format!("model.layers.{layer}.{to}.{kind}"));
        }
        let (part, kind) = name.rsplit_once('.')?;
        Some(format!("{}.{kind}", find(part).unwrap_or(part)))
    }
}
