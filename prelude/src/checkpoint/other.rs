//! Checkpoints of families that cannot be run here: what their tensors are is guessed from names and
//! ranks, which is enough for the methods that need no forward pass.

use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use super::archive::Archive;
use super::config::{Kind, TensorSpec};
use crate::error::{Error, Result};

/// The output layer, where it is not the embedding.
pub(super) const OUTPUT: &str = "lm_head.weight";

/// The tensors of `archive` to merge, by name. `config` is its config.json.
///
/// # Errors
/// Weights that are packed, or of a dtype that does not merge.
pub(super) fn tensors(archive: &Archive, config: &Path, json: &[u8]) -> Result<Vec<TensorSpec>> {
    let invalid = |e: serde_json::Error| Error::Json { file: config.into(), reason: e.to_string() };
    let json: Value = serde_json::from_slice(json).map_err(invalid)?;
    for (name, buffer) in &archive.buffers {
        use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
        if !matches!(buffer.dtype, BOOL | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64) {
            let found = format!("{:?}", buffer.dtype);
            return Err(Error::DType { file: archive.file.clone(), tensor: name.clone(), found });
        }
    }
    // What a rotary embedding turns by follows from config.json: old checkpoints store it, and nobody reads it.
    let read = archive.tensors.iter().filter(|(name, _)| !name.ends_with("rotary_emb.inv_freq"));
    let tensors =
        read.map(|(name, view)| TensorSpec { name: name.clone(), kind: kind(name, view.shape.len()), shape: view.shape.clone() });
    let stored = tensors.collect::<Vec<_>>();
    // A tied output layer is the embedding, whether it is stored a second time or not.
    let embedding = stored.iter().find(|t| t.kind == Kind::Embedding && same_bytes(archive, &t.name));
    let tied = match &json["tie_word_embeddings"] {
        Value::Bool(tied) => *tied,
        _ => embedding.is_some(),
    };
    Ok(stored.into_iter().filter(|t| !tied || t.name != OUTPUT).collect())
}

/// Whether the output layer is stored with the bytes of the tensor `name`.
fn same_bytes(archive: &Archive, name: &str) -> bool {
    let bytes = |name: &str| archive.tensors.get(name).map(|view| view.bytes());
    bytes(OUTPUT).is_some_and(|output| bytes(name) == Some(output))
}

/// What a tensor seems to be.
fn kind(name: &str, rank: usize) -> Kind {
    let name = name.to_lowercase();
    let embeds = ["embed", "wte", "wpe"].iter().any(|part| name.contains(part)) && name.ends_with("weight");
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
