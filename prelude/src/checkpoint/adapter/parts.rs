//! Sorts the tensors of an adapter's weight file by module and part.
//!
//! PEFT names them `base_model.model.MODULE.PART`. Training wrappers (torch.compile, FSDP, data
//! parallelism) and the adapter's name may add further parts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::pattern::is_suffix;
use crate::checkpoint::storage::{ADAPTER_WEIGHTS, View, map};
use crate::checkpoint::weight_file::read_weight_file;
use crate::error::{Error, Result};

/// The contents of an adapter's weight file, with module names as in training.
#[derive(Default)]
pub(super) struct Parts {
    pub file: PathBuf,
    pub low_rank: BTreeMap<String, LowRankPart>,
    /// Rows of trained tokens, by module.
    pub tokens: BTreeMap<String, View>,
    /// Full tensors, by name.
    pub whole: BTreeMap<String, FullTensor>,
    /// Prefixes of wrappers, other than PEFT's own, that were removed.
    pub stripped_prefixes: BTreeSet<&'static str>,
}

/// The low-rank part of a module.
#[derive(Default)]
pub(super) struct LowRankPart {
    /// `A`: rank x in; of an embedding, rank x tokens.
    pub a: Option<View>,
    /// `B`: out x rank; of an embedding, features x rank.
    pub b: Option<View>,
    pub is_embedding: bool,
    /// Added to the module's bias.
    pub bias: Option<View>,
    /// DoRA magnitudes.
    pub magnitudes: Option<View>,
}

/// A tensor that is stored in full.
pub(super) struct FullTensor {
    pub view: View,
    /// Whether it is a tensor of the base that was trained in place; otherwise the adapter replaces
    /// the base's.
    pub is_base: bool,
}

/// Prefixes that training wrappers add before or within module names.
const WRAPPERS: [&str; 4] =
    ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module."];

/// The tensors of the adapter in `directory`, and their file.
///
/// # Errors
/// No supported weight file, or a corrupt one.
fn tensors(directory: &Path) -> Result<(PathBuf, BTreeMap<String, View>)> {
    for name in ADAPTER_WEIGHTS {
        let file = directory.join(name);
        match map(&file) {
            Ok(bytes) => {
                let tensors = read_weight_file(&file, bytes)?.tensors;
                return Ok((file, tensors));
            }
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Adapter {
        path: directory.into(),
        reason: format!("it has no `{}`", ADAPTER_WEIGHTS[0]),
        hint: "an adapter is a directory with adapter_config.json and adapter_model.safetensors, as saved by PEFT".into(),
    })
}

impl Parts {
    /// Reads and sorts the tensors of the adapter in `directory`. `saved` names the modules that
    /// are stored in full.
    ///
    /// # Errors
    /// A corrupt file, unknown parts, several adapters in one file.
    pub fn read(directory: &Path, saved: &[String]) -> Result<Self> {
        let (file, tensors) = tensors(directory)?;
        let mut parts = Self { file, ..Self::default() };
        let mut adapters = BTreeSet::new();
        for (key, view) in tensors {
            let name = parts.name(&key);
            if let Some((module, part)) = name.split_once(".lora_") {
                let (kind, rest) = part.split_once('.').unwrap_or((part, ""));
                let (adapter, end) = split_end(rest, &["weight", "bias"]);
                adapters.extend(adapter.map(str::to_owned));
                // Only used in training.
                if kind.starts_with("monteclora") || kind.starts_with("velora") {
                    continue;
                }
                let module = module.strip_suffix(".base_layer").unwrap_or(module);
                let low_rank = parts.low_rank.entry(module.to_owned()).or_default();
                let place = match (kind, end) {
                    ("A", "weight") => &mut low_rank.a,
                    ("B", "weight") => &mut low_rank.b,
                    ("embedding_A", "") => &mut low_rank.a,
                    ("embedding_B", "") => &mut low_rank.b,
                    ("B", "bias") => &mut low_rank.bias,
                    ("magnitude_vector", "weight" | "") => &mut low_rank.magnitudes,
                    _ => return Err(parts.unknown(directory, &key)),
                };
                *place = Some(view);
                low_rank.is_embedding |= kind.starts_with("embedding");
            } else if let Some((module, part)) = name.split_once(".trainable_tokens_") {
                let (kind, rest) = part.split_once('.').unwrap_or((part, ""));
                adapters.extend(Some(rest).filter(|rest| !rest.is_empty()).map(str::to_owned));
                match kind {
                    "delta" => drop(
                        parts
                            .tokens
                            .insert(module.trim_end_matches(".token_adapter").to_owned(), view),
                    ),
                    "original" => {}
                    _ => return Err(parts.unknown(directory, &key)),
                }
            } else if name.contains(".original_module.") {
                // The base's own module, which the saved one replaces.
            } else if let Some((module, rest)) = name.split_once(".modules_to_save.") {
                let (adapter, end) = rest
                    .split_once('.')
                    .map_or((None, rest), |(adapter, end)| (Some(adapter), end));
                adapters.extend(adapter.map(str::to_owned));
                parts.whole.insert(format!("{module}.{end}"), FullTensor { view, is_base: false });
            } else {
                let plain =
                    name.replace(".token_adapter.base_layer.", ".").replace(".base_layer.", ".");
                let module = plain.rsplit_once('.').map_or("", |(module, _)| module);
                let has = |saved: &String| {
                    is_suffix(module, saved)
                        || format!(".{module}.").contains(&format!(".{saved}."))
                };
                let is_base = plain != name || !saved.iter().any(has);
                parts.whole.insert(plain, FullTensor { view, is_base });
            }
        }
        if adapters.len() > 1 {
            let names = adapters.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::Adapter {
                path: directory.into(),
                reason: format!("its file contains several adapters: {names}"),
                hint: "save a single one: model.save_pretrained(DIR, selected_adapters=[NAME])"
                    .into(),
            });
        }
        let is_empty =
            parts.low_rank.is_empty() && parts.tokens.is_empty() && parts.whole.is_empty();
        if is_empty {
            Err(Error::MissingTensor { file: parts.file, tensor: "*.lora_A.weight".into() })
        } else {
            Ok(parts)
        }
    }

    /// `key` without the prefixes of PEFT and training wrappers.
    fn name(&mut self, key: &str) -> String {
        let mut name = key;
        loop {
            let wrapper = WRAPPERS.into_iter().find(|wrapper| name.starts_with(wrapper));
            let prefix = ["base_model.model.", "base_model."]
                .into_iter()
                .find(|prefix| name.starts_with(prefix));
            let Some(prefix) = wrapper.or(prefix) else { break };
            self.stripped_prefixes.extend(wrapper);
            name = &name[prefix.len()..];
        }
        let mut name = name.to_owned();
        for wrapper in &WRAPPERS[..3] {
            let between = format!(".{wrapper}");
            if name.contains(&between) {
                self.stripped_prefixes.insert(wrapper);
                name = name.replace(&between, ".");
            }
        }
        name
    }

    fn unknown(&self, directory: &Path, key: &str) -> Error {
        Error::Adapter {
            path: directory.into(),
            reason: format!("tensor `{key}` is not a known part of a LoRA adapter"),
            hint: super::config::MERGE_HINT.into(),
        }
    }
}

/// Splits `NAME.END`, where END is one of `known`; NAME may be missing.
fn split_end<'a>(rest: &'a str, known: &[&str]) -> (Option<&'a str>, &'a str) {
    match rest.rsplit_once('.') {
        Some((name, end)) if known.contains(&end) => (Some(name), end),
        None if known.contains(&rest) || rest.is_empty() => (None, rest),
        _ => (Some(rest), ""),
    }
}
