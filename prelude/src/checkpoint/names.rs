//! What tensors are called: as a file stores them, and as a decoder asks for them.
//!
//! Compilers, trainers and PEFT leave their own parts in names (`_orig_mod.`, `module.`), a model saved without its
//! output layer lacks `model.`, and multimodal models put their decoder under `language_model.`, before `model.` or
//! behind it. All of these are one name here, `model.layers.0...`. Leftovers are dropped for good; the names of a
//! multimodal model are kept, and written again.

use std::collections::BTreeMap;
use std::path::Path;

use super::archive::Archive;
use super::config::is_wrapper;
use crate::error::{Error, Result};

/// What wrappers of a model leave before all names.
const LEADING: [&str; 6] =
    ["_orig_mod.", "module.", "_forward_module.", "_fsdp_wrapped_module.", "base_model.model.", "language_model."];

/// What wrappers of a part of a model leave within names.
const WITHIN: [&str; 4] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

/// What an adapter that was not merged leaves.
const ADAPTERS: [&str; 4] = [".base_layer.", ".lora_A.", ".lora_B.", ".modules_to_save."];

/// The name of a decoder within its causal model, and how the names of its tensors begin without it.
const BARE: [(&str, &[&str]); 2] = [
    ("model.", &["embed_tokens.", "layers.", "norm."]),
    ("transformer.", &["wte.", "wpe.", "word_embeddings.", "word_embeddings_layernorm.", "h.", "blocks.", "ln_f.", "norm_f."]),
];

/// Names in a checkpoint of one family.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// Whether it is a multimodal model.
    wrapper: bool,
    /// Names as they are stored, by those that differ here.
    stored: BTreeMap<String, String>,
    /// What was changed, for a reader.
    pub notes: Vec<String>,
}

impl Names {
    /// Gives the tensors of `archive`, of a model of `family`, the names that they have here. `runs`: whether
    /// names must be those of a decoder.
    ///
    /// # Errors
    /// Names of which only some begin in one way, two of one tensor, or an adapter that was not merged.
    pub fn settle(archive: &mut Archive, family: &str, runs: Runs) -> Result<Self> {
        let mut names = Self { wrapper: is_wrapper(family), ..Self::default() };
        let file = archive.file.clone();
        if let Some(name) = all(archive).find(|name| ADAPTERS.iter().any(|part| name.contains(part))) {
            let reason = format!("`{name}` is of an adapter that was not merged into its model");
            let hint =
                "merge it first (PEFT: merge_and_unload, then save_pretrained), or load the base with the adapter: BASE+ADAPTER";
            return Err(Error::TensorNames { file, reason, hint });
        }
        while names.drop_leading(archive, &file, runs)? {}
        names.drop_within(archive, &file)?;
        if names.wrapper {
            names.stored = rename(archive, &file, decoders)?;
            return Ok(names);
        }
        names.complete(archive, &file, runs)?;
        Ok(names)
    }

    /// The name here of a tensor that an adapter calls `name`.
    pub fn known_as(&self, name: &str) -> String {
        let name = without(name);
        if self.wrapper { decoders(&name) } else { name }
    }

    /// The name of the tensor `name` in the files of its checkpoint; of a layer that it lacks, what it would be.
    pub fn stored(&self, name: &str) -> String {
        let like_first = || {
            let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let first = self.stored.get(&format!("model.layers.0.{part}"))?;
            Some(first.replacen("layers.0.", &format!("layers.{layer}."), 1))
        };
        self.stored.get(name).cloned().or_else(like_first).unwrap_or_else(|| name.to_owned())
    }

    /// Drops what all names begin with, if a wrapper left it.
    fn drop_leading(&mut self, archive: &mut Archive, file: &Path, runs: Runs) -> Result<bool> {
        for leading in LEADING {
            // A multimodal model's decoder is called so.
            if leading == "language_model." && (self.wrapper || runs == Runs::No) {
                continue;
            }
            let with = all(archive).find(|name| name.starts_with(leading)).cloned();
            let Some(with) = with else { continue };
            if let Some(without) = all(archive).find(|name| !name.starts_with(leading)) {
                if runs == Runs::No || leading == "language_model." {
                    continue;
                }
                return Err(mixed(file, &with, without));
            }
            rename(archive, file, |name| name[leading.len()..].to_owned())?;
            self.notes.push(format!("all names of its tensors begin with `{leading}`, which is dropped"));
            return Ok(true);
        }
        Ok(false)
    }

    /// Drops what wrappers of parts left within names.
    fn drop_within(&mut self, archive: &mut Archive, file: &Path) -> Result<()> {
        let renamed = rename(archive, file, without)?;
        if let Some(first) = renamed.values().next() {
            let found = WITHIN.iter().find(|part| first.split('.').any(|p| p == **part)).unwrap_or(&WITHIN[0]);
            self.notes.push(format!("`{found}` is dropped from the names of {} tensors", renamed.len()));
        }
        Ok(())
    }

    /// Puts what the names of a decoder begin with before those that lack it.
    fn complete(&mut self, archive: &mut Archive, file: &Path, runs: Runs) -> Result<()> {
        for (model, parts) in BARE {
            let is_bare = |name: &str| parts.iter().any(|part| name.starts_with(part));
            let bare = all(archive).find(|name| is_bare(name)).cloned();
            let full = all(archive).find(|name| name.strip_prefix(model).is_some_and(is_bare)).cloned();
            match (bare, full) {
                (Some(bare), Some(full)) if runs == Runs::Yes && model == "model." => return Err(mixed(file, &full, &bare)),
                (Some(_), None) if (runs == Runs::Yes) == (model == "model.") => {
                    // Of families that cannot be run, only what is surely of this kind.
                    let head = |name: &str| name.starts_with("lm_head.") || name.starts_with("score.");
                    if runs == Runs::No && !all(archive).all(|name| is_bare(name) || head(name)) {
                        continue;
                    }
                    rename(archive, file, |name| if is_bare(name) { format!("{model}{name}") } else { name.to_owned() })?;
                    self.notes.push(format!("the names of its tensors lack `{model}`, which is put before them"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether a decoder of the family can be run, which then has the names that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    Yes,
    No,
}

/// The names of all tensors and buffers.
fn all(archive: &Archive) -> impl Iterator<Item = &String> {
    archive.tensors.keys().chain(archive.buffers.keys())
}

/// `name` without what wrappers of parts of a model left in it.
fn without(name: &str) -> String {
    name.split('.').filter(|part| !WITHIN.contains(part)).collect::<Vec<_>>().join(".")
}

/// A name of a multimodal model as it is here: what is of the decoder as a decoder has it, all else without `model.`.
fn decoders(name: &str) -> String {
    const DECODER: [&str; 3] = ["embed_tokens.", "layers.", "norm."];
    let is_decoder = |rest: &&str| DECODER.iter().any(|part| rest.starts_with(part));
    for within in
        ["language_model.model.", "model.language_model.", "model.text_model.", "language_model.", "text_model.", "model."]
    {
        match name.strip_prefix(within) {
            Some(rest) if is_decoder(&rest) => return format!("model.{rest}"),
            Some(rest) if rest.starts_with("lm_head.") => return rest.to_owned(),
            _ => {}
        }
    }
    name.strip_prefix("model.").unwrap_or(name).to_owned()
}

/// Gives every tensor of `archive` the name `new` of its own; the former names by those that differ.
fn rename(archive: &mut Archive, file: &Path, new: impl Fn(&str) -> String) -> Result<BTreeMap<String, String>> {
    let mut renamed = BTreeMap::new();
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for name in all(archive) {
        let here = new(name);
        if let Some(other) = taken.insert(here.clone(), name.clone()) {
            return Err(mixed(file, &other, name));
        }
        if here != *name {
            renamed.insert(here, name.clone());
        }
    }
    if !renamed.is_empty() {
        archive.tensors = std::mem::take(&mut archive.tensors).into_iter().map(|(name, t)| (new(&name), t)).collect();
        archive.buffers = std::mem::take(&mut archive.buffers).into_iter().map(|(name, b)| (new(&name), b)).collect();
    }
    Ok(renamed)
}

fn mixed(file: &Path, one: &str, other: &str) -> Error {
    let reason = format!("`{one}` and `{other}` are named in two ways");
    let hint = "load the model as it was saved and save it again with save_pretrained, outside of compilers and trainers";
    Error::TensorNames { file: file.into(), reason, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_multimodal_models_are_those_of_decoders() {
        let expected = [
            ("language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("model.text_model.norm.weight", "model.norm.weight"),
            ("language_model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("model.visual.blocks.0.attn.qkv.weight", "visual.blocks.0.attn.qkv.weight"),
            ("visual.blocks.0.attn.qkv.weight", "visual.blocks.0.attn.qkv.weight"),
            ("model.vision_tower.encoder.layers.0.mlp.fc1.weight", "vision_tower.encoder.layers.0.mlp.fc1.weight"),
            ("multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_1.weight"),
            ("model.image_newline", "image_newline"),
        ];
        for (stored, known) in expected {
            assert_eq!(decoders(stored), known);
        }
    }
}
