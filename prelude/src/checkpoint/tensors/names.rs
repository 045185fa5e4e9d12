//! Maps tensor names in a file to the names that decoders use.
//!
//! Compilers, trainers and PEFT add parts to names (`_orig_mod.`, `module.`), a model saved without
//! its output layer lacks `model.`, and multimodal models put their decoder under
//! `language_model.`, before or after `model.`. All of these map to one name here,
//! `model.layers.0...`. Added parts are dropped for good; the names of a multimodal model are kept
//! and restored when writing.

use std::collections::BTreeMap;
use std::path::Path;

use super::archive::Archive;
use crate::checkpoint::config::is_wrapper;
use crate::error::{Error, Result};

/// Prefixes that wrappers of a whole model add to all names.
const LEADING: [&str; 6] = [
    "_orig_mod.",
    "module.",
    "_forward_module.",
    "_fsdp_wrapped_module.",
    "base_model.model.",
    "language_model.",
];

/// Parts that wrappers of submodules add within names.
const WITHIN: [&str; 4] =
    ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

/// Parts of names that only unmerged adapters have.
const ADAPTERS: [&str; 4] = [".base_layer.", ".lora_A.", ".lora_B.", ".modules_to_save."];

/// The prefix of a decoder within its causal model, and the first parts of its tensor names without
/// it.
const BARE: [(&str, &[&str]); 2] = [
    ("model.", &["embed_tokens.", "layers.", "norm."]),
    (
        "transformer.",
        &[
            "wte.",
            "wpe.",
            "word_embeddings.",
            "word_embeddings_layernorm.",
            "h.",
            "blocks.",
            "ln_f.",
            "norm_f.",
        ],
    ),
];

/// The tensor names of one checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct TensorNames {
    /// Whether it is a multimodal model.
    wrapper: bool,
    /// Stored names by the names used here, for those that differ.
    stored: BTreeMap<String, String>,
    /// Notes for the user on what was changed.
    pub notes: Vec<String>,
}

impl TensorNames {
    /// Renames the tensors of `archive`, a model of `family`, to the names used here. `runs`:
    /// whether they must be those of a supported decoder.
    ///
    /// # Errors
    /// A mix of naming schemes, two tensors with the same name, or an unmerged adapter.
    pub fn normalize(archive: &mut Archive, family: &str, runs: Runnable) -> Result<Self> {
        let mut names = Self { wrapper: is_wrapper(family), ..Self::default() };
        let file = archive.file.clone();
        if let Some(name) =
            all_names(archive).find(|name| ADAPTERS.iter().any(|part| name.contains(part)))
        {
            let reason =
                format!("`{name}` belongs to an adapter that was not merged into its model");
            let hint = "merge it first (PEFT: merge_and_unload, then save_pretrained), or load the base with the adapter: BASE+ADAPTER";
            return Err(Error::TensorNames { file, reason, hint });
        }
        while names.drop_leading(archive, &file, runs)? {}
        names.drop_within(archive, &file)?;
        if names.wrapper {
            names.stored = rename(archive, &file, decoder_name)?;
            return Ok(names);
        }
        names.add_prefix(archive, &file, runs)?;
        Ok(names)
    }

    /// The name used here for a tensor that an adapter calls `name`.
    pub fn known_as(&self, name: &str) -> String {
        let name = strip_within(name);
        if self.wrapper { decoder_name(&name) } else { name }
    }

    /// The stored name of the tensor `name`; for a layer that the checkpoint lacks, the name it
    /// would have.
    pub fn stored(&self, name: &str) -> String {
        let like_first = || {
            let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let first = self.stored.get(&format!("model.layers.0.{part}"))?;
            Some(first.replacen("layers.0.", &format!("layers.{layer}."), 1))
        };
        self.stored.get(name).cloned().or_else(like_first).unwrap_or_else(|| name.to_owned())
    }

    /// Drops a prefix that a wrapper added to all names.
    fn drop_leading(&mut self, archive: &mut Archive, file: &Path, runs: Runnable) -> Result<bool> {
        for leading in LEADING {
            // The decoder of a multimodal model has this prefix.
            if leading == "language_model." && (self.wrapper || runs == Runnable::No) {
                continue;
            }
            let with = all_names(archive).find(|name| name.starts_with(leading)).cloned();
            let Some(with) = with else { continue };
            if let Some(without) = all_names(archive).find(|name| !name.starts_with(leading)) {
                if runs == Runnable::No || leading == "language_model." {
                    continue;
                }
                return Err(mixed_error(file, &with, without));
            }
            rename(archive, file, |name| name[leading.len()..].to_owned())?;
            self.notes.push(format!("dropped `{leading}` from the beginning of all tensor names"));
            return Ok(true);
        }
        Ok(false)
    }

    /// Drops parts that wrappers of submodules added within names.
    fn drop_within(&mut self, archive: &mut Archive, file: &Path) -> Result<()> {
        let renamed = rename(archive, file, strip_within)?;
        if let Some(first) = renamed.values().next() {
            let found = WITHIN
                .iter()
                .find(|part| first.split('.').any(|p| p == **part))
                .unwrap_or(&WITHIN[0]);
            self.notes
                .push(format!("dropped `{found}` from the names of {} tensors", renamed.len()));
        }
        Ok(())
    }

    /// Adds the decoder's prefix to names that lack it.
    fn add_prefix(&mut self, archive: &mut Archive, file: &Path, runs: Runnable) -> Result<()> {
        for (model, parts) in BARE {
            let is_bare = |name: &str| parts.iter().any(|part| name.starts_with(part));
            let bare = all_names(archive).find(|name| is_bare(name)).cloned();
            let full = all_names(archive)
                .find(|name| name.strip_prefix(model).is_some_and(is_bare))
                .cloned();
            match (bare, full) {
                (Some(bare), Some(full)) if runs == Runnable::Yes && model == "model." => {
                    return Err(mixed_error(file, &full, &bare));
                }
                (Some(_), None) if (runs == Runnable::Yes) == (model == "model.") => {
                    // In unsupported families, only if the names are unambiguous.
                    let head =
                        |name: &str| name.starts_with("lm_head.") || name.starts_with("score.");
                    if runs == Runnable::No
                        && !all_names(archive).all(|name| is_bare(name) || head(name))
                    {
                        continue;
                    }
                    rename(archive, file, |name| {
                        if is_bare(name) { format!("{model}{name}") } else { name.to_owned() }
                    })?;
                    self.notes.push(format!(
                        "added the missing `{model}` to the beginning of its tensor names"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether the family is supported, so that tensors must have the decoder's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runnable {
    Yes,
    No,
}

/// The names of all tensors and buffers.
fn all_names(archive: &Archive) -> impl Iterator<Item = &String> {
    archive.tensors.keys().chain(archive.buffers.keys())
}

/// `name` without the parts that wrappers of submodules added.
fn strip_within(name: &str) -> String {
    name.split('.').filter(|part| !WITHIN.contains(part)).collect::<Vec<_>>().join(".")
}

/// The name used here for a name of a multimodal model: a decoder's name for its decoder, and no
/// `model.` for the rest.
fn decoder_name(name: &str) -> String {
    const DECODER: [&str; 3] = ["embed_tokens.", "layers.", "norm."];
    let is_decoder = |rest: &&str| DECODER.iter().any(|part| rest.starts_with(part));
    for within in [
        "language_model.model.",
        "model.language_model.",
        "model.text_model.",
        "language_model.",
        "text_model.",
        "model.",
    ] {
        match name.strip_prefix(within) {
            Some(rest) if is_decoder(&rest) => return format!("model.{rest}"),
            Some(rest) if rest.starts_with("lm_head.") => return rest.to_owned(),
            _ => {}
        }
    }
    name.strip_prefix("model.").unwrap_or(name).to_owned()
}

/// Renames every tensor of `archive` with `new`. Returns the former names of those that differ.
fn rename(
    archive: &mut Archive,
    file: &Path,
    new: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, String>> {
    let mut renamed = BTreeMap::new();
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for name in all_names(archive) {
        let here = new(name);
        if let Some(other) = taken.insert(here.clone(), name.clone()) {
            return Err(mixed_error(file, &other, name));
        }
        if here != *name {
            renamed.insert(here, name.clone());
        }
    }
    if !renamed.is_empty() {
        archive.tensors = std::mem::take(&mut archive.tensors)
            .into_iter()
            .map(|(name, t)| (new(&name), t))
            .collect();
        archive.buffers = std::mem::take(&mut archive.buffers)
            .into_iter()
            .map(|(name, b)| (new(&name), b))
            .collect();
    }
    Ok(renamed)
}

fn mixed_error(file: &Path, one: &str, other: &str) -> Error {
    let reason = format!("`{one}` and `{other}` follow different naming schemes");
    let hint = "load the model in the program that saved it and save it again with save_pretrained, without compilers or trainers";
    Error::TensorNames { file: file.into(), reason, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_multimodal_models_map_to_decoder_names() {
        let expected = [
            (
                "language_model.model.layers.0.mlp.up_proj.weight",
                "model.layers.0.mlp.up_proj.weight",
            ),
            (
                "model.language_model.layers.0.mlp.up_proj.weight",
                "model.layers.0.mlp.up_proj.weight",
            ),
            ("model.text_model.norm.weight", "model.norm.weight"),
            ("language_model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("model.visual.blocks.0.attn.qkv.weight", "visual.blocks.0.attn.qkv.weight"),
            ("visual.blocks.0.attn.qkv.weight", "visual.blocks.0.attn.qkv.weight"),
            (
                "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
                "vision_tower.encoder.layers.0.mlp.fc1.weight",
            ),
            ("multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_1.weight"),
            ("model.image_newline", "image_newline"),
        ];
        for (stored, known) in expected {
            assert_eq!(decoder_name(stored), known);
        }
    }
}
