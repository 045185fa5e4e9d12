//! Parts of a model, and the places where a source is put in place of the merge.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::checkpoint::{Architecture, TensorSpec};
use crate::model::Half;

/// What adds to the residual stream, or to the logit that is read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The embedding of the last token.
    Embedding,
    /// The attention of a layer.
    Attention(usize),
    /// The MLP of a layer.
    Mlp(usize),
    /// The cap on logits, `c tanh(z / c)`, in families that have one.
    LogitCap,
}

impl Part {
    /// Returns half a layer.
    pub(super) fn of(half: Half, layer: usize) -> Self {
        match half {
            Half::Attention => Self::Attention(layer),
            Half::Mlp => Self::Mlp(layer),
        }
    }

    /// Returns its layer; `None` outside the layers.
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Attention(layer) | Self::Mlp(layer) => Some(layer),
            Self::Embedding | Self::LogitCap => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Attention(layer) => write!(f, "layer {layer} attention"),
            Self::Mlp(layer) => write!(f, "layer {layer} mlp"),
            Self::LogitCap => f.write_str("logit cap"),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Returns the name of the residual stream at place `place`: after the embedding (0), or after
/// layer `place - 1`.
pub fn stream_name(place: usize) -> String {
    place.checked_sub(1).map_or_else(|| "embedding".into(), |layer| format!("layer {layer}"))
}

/// What a source provides in place of the merge. Everything else is the merge's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Patch {
    /// The residual stream at a place, for all tokens: 0 after the embedding, `l + 1` after layer
    /// `l`.
    Stream(usize),
    /// What a part adds to the residual stream, for all tokens.
    Part(Part),
    /// A tensor: its scale is 1 for the source and 0 for the others.
    Tensor(String),
    /// Some columns of a tensor.
    Columns(String, Vec<usize>),
}

/// Returns the half of a layer that the tensor `name` belongs to, with its layer; `None` outside
/// the layers.
pub(super) fn half_of(a: &Architecture, name: &str) -> Option<(Half, usize)> {
    let layer = TensorSpec::layer_of(name)?;
    let own = name.strip_prefix(&format!("model.layers.{layer}."))?;
    let is_norm_of = |half: &Half| {
        let norms = [half.norm_before(a), half.norm_after(a)];
        norms.into_iter().flatten().any(|norm| own.strip_suffix(".weight") == Some(norm))
    };
    let half = if own.starts_with("self_attn.") {
        Half::Attention
    } else if own.starts_with("mlp.") {
        Half::Mlp
    } else {
        Half::ALL.into_iter().find(is_norm_of)?
    };
    Some((half, layer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Source;

    #[test]
    fn every_tensor_of_a_layer_belongs_to_a_half() {
        let source = Source::open("builtin:math").unwrap();
        let a = source.architecture().unwrap();
        for layer in 0..a.layers {
            let halves = a.layer_tensors(layer).into_iter().map(|t| half_of(a, &t.name).unwrap());
            let halves: Vec<Half> = halves
                .map(|(half, of)| {
                    assert_eq!(of, layer);
                    half
                })
                .collect();
            assert!(halves.is_sorted_by_key(|half| *half == Half::Mlp), "{halves:?}");
            assert_eq!(halves.iter().filter(|half| **half == Half::Mlp).count(), 4);
        }
        assert_eq!(half_of(a, "model.norm.weight"), None);
    }
}
