//! LoRA adapters as PEFT means them: `W + s B A` (arXiv 2106.09685) and what belongs to it, applied as a weight is decoded.
//!
//! | what | where |
//! | --- | --- |
//! | the keys of adapter_config.json: followed, without effect, or refused by name | [`config`], [`pattern`] |
//! | the tensors of the file, by modules | [`parts`], [`names`] |
//! | putting them on a model, in PEFT's order | [`apply`], [`base`], [`settle`] |
//! | PiSSA and OLoRA, which are relative to a changed base | [`initial`] |
//! | DoRA's magnitudes | [`magnitude`] |
//! | trainable tokens; stacked layers | [`tokens`], [`replicate`] |
//! | the tokenizer and chat template beside it | [`beside`] |
//! | what is done to a weight as it is decoded | [`change`] |
//!
//! Where PEFT's merged weights and its model with the adapter on differ, which is so for adapters of one of a tied
//! embedding and output layer (PEFT adds to both), it is the model, which is what was trained.

mod apply;
mod base;
mod beside;
mod change;
mod config;
mod initial;
mod magnitude;
mod names;
mod parts;
mod pattern;
mod replicate;
mod settle;
mod tokens;

use std::path::{Path, PathBuf};

pub(super) use base::{Base, untied};
pub(super) use beside::{Beside, FILES};
pub(super) use change::Change;
pub(super) use parts::WEIGHTS;

use self::config::Config;
use self::parts::Parts;
use super::files::map;
use super::hub::{Hub, Place, Wanted};
use crate::error::{Error, Result};

/// What makes a directory an adapter.
pub(super) const CONFIG: &str = "adapter_config.json";

/// One adapter.
pub(super) struct Adapter {
    pub path: PathBuf,
    config: Config,
    parts: Parts,
}

impl Adapter {
    /// Opens the directory of a PEFT adapter, or one on the hub.
    ///
    /// # Errors
    /// What is missing or damaged, and keys that cannot be followed.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut path = std::path::absolute(directory).map_err(|e| Error::io("read", directory, e))?;
        if !path.exists()
            && let Some(place) = directory.to_str().and_then(|spec| Place::parse(spec, false))
        {
            path = Hub::from_env()?.snapshot(&place, Wanted::Adapter)?.directory;
        }
        // The weights, or the configuration, stand for their directory.
        if path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adapter_")) {
            path.pop();
        }
        let file = path.join(CONFIG);
        let bytes = match map(&file) {
            Err(Error::NotFound { .. }) if path.exists() => return Err(not_adapter(path)),
            other => other?,
        };
        let config = Config::read(&file, &bytes)?;
        let parts = Parts::read(&path, &config.saved)?;
        Ok(Self { path, config, parts })
    }

    /// The adapter of a multimodal model, whose tensors have the names that `known` gives them here.
    pub fn renamed(mut self, known: impl Fn(&str) -> String) -> Self {
        let module = |name: String| known(&format!("{name}.")).trim_end_matches('.').to_owned();
        let Parts { low_rank, tokens, whole, .. } = &mut self.parts;
        *low_rank = std::mem::take(low_rank).into_iter().map(|(name, part)| (module(name), part)).collect();
        *tokens = std::mem::take(tokens).into_iter().map(|(name, rows)| (module(name), rows)).collect();
        *whole = std::mem::take(whole).into_iter().map(|(name, tensor)| (known(&name), tensor)).collect();
        self
    }

    /// What it is called: its directory.
    fn name(&self) -> String {
        self.path.file_name().map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// Puts the tokenizer and template beside it before `files`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn add_beside(&self, files: &mut Beside) -> Result<()> {
        beside::add(&self.path, files)
    }
}

/// The error that there is no adapter at `path`.
fn not_adapter(path: PathBuf) -> Error {
    match path.join("config.json").exists() {
        true => Error::Adapter {
            path,
            reason: "it is a model, not an adapter".into(),
            hint: "an adapter stands behind its base, BASE+ADAPTER; a model is a source of its own".into(),
        },
        false => Error::Adapter {
            path,
            reason: format!("it has no `{CONFIG}`"),
            hint: "an adapter is a directory with adapter_config.json and adapter_model.safetensors, as PEFT saves it".into(),
        },
    }
}

/// The error that the adapter at `path`, whose configuration is `json`, was given as a model.
pub(super) fn alone(path: &Path, json: &[u8]) -> Error {
    let json: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let base = json["base_model_name_or_path"].as_str().filter(|base| !base.is_empty());
    let place = path.display();
    let hint = match base {
        Some(base) => format!("did you mean BASE+ADAPTER? It was trained on `{base}`: load {base}+{place}"),
        None => format!("did you mean BASE+ADAPTER? Name the model that it was trained on: load BASE+{place}"),
    };
    Error::Adapter { path: path.into(), reason: "it is an adapter, not a model".into(), hint }
}
