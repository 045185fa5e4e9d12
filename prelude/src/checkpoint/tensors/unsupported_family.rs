//! Checkpoints of unsupported families, and the tensors of multimodal models outside the text
//! decoder. The kinds of tensors are guessed from names and ranks, which is enough for merge
//! methods that need no forward pass.

use std::path::Path;

use serde_json::{Map, Value};

use super::archive::Archive;
use crate::checkpoint::config::{Kind, TensorSpec, get};
use crate::checkpoint::storage::View;
use crate::error::{Error, Result};

/// The name of the output layer, unless it is the embedding.
pub(crate) const OUTPUT: &str = "lm_head.weight";

/// The tensors of `archive` to merge, by name. `config` is the path of its config.json and `json`
/// its contents.
///
/// # Errors
/// A config.json that is not valid JSON.
pub(crate) fn tensors(archive: &Archive, config: &Path, json: &[u8]) -> Result<Vec<TensorSpec>> {
    let invalid = |e: serde_json::Error| Error::Json { file: config.into(), reason: e.to_string() };
    let json: Map<String, Value> = serde_json::from_slice(json).map_err(invalid)?;
    // Rotary frequencies follow from config.json; old checkpoints store them, but nothing reads
    // them.
    let read = archive.tensors.iter().filter(|(name, _)| !name.ends_with("rotary_emb.inv_freq"));
    let stored: Vec<TensorSpec> = read.map(|(name, view)| spec(name, view)).collect();
    // A tied output layer is the embedding, even if it is stored twice.
    let embedding =
        stored.iter().find(|t| t.kind == Kind::Embedding && same_bytes(archive, &t.name));
    let tied = match get(&json, "tie_word_embeddings") {
        Some(Value::Bool(tied)) => *tied,
        _ => embedding.is_some(),
    };
    Ok(stored.into_iter().filter(|t| !tied || t.name != OUTPUT).collect())
}

/// The tensors of a multimodal model outside its decoder, by name.
///
/// # Errors
/// An unsupported dtype.
pub(crate) fn rest(archive: &Archive) -> Result<Vec<TensorSpec>> {
    Ok(archive
        .tensors
        .iter()
        .filter(|(name, _)| is_rest(name))
        .map(|(name, view)| spec(name, view))
        .collect())
}

/// Whether `name` is outside the decoder of a multimodal model.
pub(crate) fn is_rest(name: &str) -> bool {
    !name.starts_with("model.") && !name.starts_with("lm_head.")
}

fn spec(name: &str, view: &View) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        kind: kind(name, view.shape.len()),
        shape: view.shape.clone(),
    }
}

/// Whether the output layer is stored with the same bytes as the tensor `name`.
fn same_bytes(archive: &Archive, name: &str) -> bool {
    let bytes = |name: &str| archive.tensors.get(name).map(|view| view.bytes());
    bytes(OUTPUT).is_some_and(|output| bytes(name) == Some(output))
}

/// Guesses the kind of a tensor.
pub(crate) fn kind(name: &str, rank: usize) -> Kind {
    let name = name.to_lowercase();
    let embeds =
        ["embed", "wte", "wpe"].iter().any(|part| name.contains(part)) && name.ends_with("weight");
    match rank {
        0 | 1 if name.ends_with("bias") => Kind::Bias,
        0 | 1 => Kind::Norm,
        2 if embeds => Kind::Embedding,
        _ => Kind::Linear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_from_names_and_ranks() {
        let expected = [
            ("transformer.wte.weight", 2, Kind::Embedding),
            ("gpt_neox.embed_in.weight", 2, Kind::Embedding),
            ("roberta.embeddings.LayerNorm.weight", 1, Kind::Norm),
            ("transformer.h.0.attn.c_attn.weight", 2, Kind::Linear),
            ("transformer.h.0.attn.c_attn.bias", 1, Kind::Bias),
            ("backbone.layers.0.mixer.conv1d.weight", 3, Kind::Linear),
            ("backbone.layers.0.mixer.D", 1, Kind::Norm),
            ("backbone.layers.0.mixer.dt_bias", 1, Kind::Bias),
            ("logit_scale", 0, Kind::Norm),
        ];
        for (name, rank, expected) in expected {
            assert_eq!(kind(name, rank), expected, "{name}");
        }
    }
}
