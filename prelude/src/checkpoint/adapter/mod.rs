//! LoRA adapters with PEFT's semantics: `W + s B A` (arXiv 2106.09685) and its variants, applied as
//! a weight is decoded.
//!
//! | what | where |
//! | --- | --- |
//! | keys of adapter_config.json: supported, without effect, or unsupported | [`config`], [`pattern`] |
//! | tensors of the weight file, by module | [`parts`], [`names`] |
//! | applying them to a model, in PEFT's order | [`apply`], [`base`], [`finish`] |
//! | PiSSA and OLoRA, relative to a changed base | [`initial`] |
//! | DoRA magnitudes | [`magnitude`] |
//! | trainable tokens; layer replication | [`tokens`], [`replicate`] |
//! | the tokenizer and chat template stored with it | [`side_files`] |
//! | changes to a weight as it is decoded | [`Change`](crate::checkpoint::storage::Change) |
//!
//! PEFT's merged weights and its model with the adapter active differ for adapters of only one of a
//! tied embedding and output layer: merging adds to both. This module reproduces the active model,
//! which is what was trained.

mod apply;
mod base;
mod config;
mod finish;
mod initial;
mod magnitude;
mod names;
mod parts;
mod pattern;
mod replicate;
mod side_files;
mod tokens;

use std::path::{Path, PathBuf};

pub(super) use base::{Base, untied};
pub(super) use side_files::FileOverrides;

use self::config::Config;
use self::parts::Parts;
use crate::checkpoint::hub::{Hub, HubRef, SnapshotKind};
use crate::checkpoint::storage::{ADAPTER_CONFIG, map};
use crate::error::{Error, Result};

/// An adapter.
pub(super) struct Adapter {
    pub path: PathBuf,
    config: Config,
    parts: Parts,
}

impl Adapter {
    /// Opens a PEFT adapter, a directory or a repository on the hub.
    ///
    /// # Errors
    /// Missing or corrupt files, and unsupported keys.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut path =
            std::path::absolute(directory).map_err(|e| Error::io("read", directory, e))?;
        if !path.exists()
            && let Some(reference) = directory.to_str().and_then(|spec| HubRef::parse(spec, false))
        {
            path = Hub::from_env()?.snapshot(&reference, SnapshotKind::Adapter)?.directory;
        }
        // A path to the weights or the configuration stands for their directory.
        if path.is_file()
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adapter_"))
        {
            path.pop();
        }
        let file = path.join(ADAPTER_CONFIG);
        let bytes = match map(&file) {
            Err(Error::NotFound { .. }) if path.exists() => return Err(not_adapter(path)),
            other => other?,
        };
        let config = Config::read(&file, &bytes)?;
        let parts = Parts::read(&path, &config.saved)?;
        Ok(Self { path, config, parts })
    }

    /// Renames the modules of an adapter for a multimodal model with `known`, which maps names to
    /// those used here.
    pub fn renamed(mut self, known: impl Fn(&str) -> String) -> Self {
        let module = |name: String| known(&format!("{name}.")).trim_end_matches('.').to_owned();
        let Parts { low_rank, tokens, whole, .. } = &mut self.parts;
        *low_rank =
            std::mem::take(low_rank).into_iter().map(|(name, part)| (module(name), part)).collect();
        *tokens =
            std::mem::take(tokens).into_iter().map(|(name, rows)| (module(name), rows)).collect();
        *whole = std::mem::take(whole)
            .into_iter()
            .map(|(name, tensor)| (known(&name), tensor))
            .collect();
        self
    }

    /// The name of its directory.
    fn name(&self) -> String {
        self.path.file_name().map_or_else(
            || self.path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// Adds the tokenizer and chat template stored with it; they override `files`. May return a
    /// note.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn add_side_files(&self, files: &mut FileOverrides) -> Result<Option<String>> {
        side_files::add(&self.path, files)
    }
}

/// The error for a path without an adapter.
fn not_adapter(path: PathBuf) -> Error {
    if path.join("config.json").exists() {
        Error::Adapter {
            path,
            reason: "it is a model, not an adapter".into(),
            hint:
                "write an adapter after its base, BASE+ADAPTER; load a model as a separate source"
                    .into(),
        }
    } else {
        Error::Adapter {
            path,
            reason: format!("it has no `{ADAPTER_CONFIG}`"),
            hint: "an adapter is a directory with adapter_config.json and adapter_model.safetensors, as saved by PEFT".into(),
        }
    }
}

/// The error for an adapter at `path`, with configuration `json`, that was given as a model.
pub(super) fn needs_base(path: &Path, json: &[u8]) -> Error {
    let json: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let base = json["base_model_name_or_path"].as_str().filter(|base| !base.is_empty());
    let shown = path.display();
    let hint = match base {
        Some(base) => {
            format!("did you mean BASE+ADAPTER? It was trained on `{base}`: load {base}+{shown}")
        }
        None => format!(
            "did you mean BASE+ADAPTER? Name the model it was trained on: load BASE+{shown}"
        ),
    };
    Error::Adapter { path: path.into(), reason: "it is an adapter, not a model".into(), hint }
}
