//! The order of a sweep: the parts of a model, and the steps of a layer.

use crate::checkpoint::{Architecture, QkNorm};
use crate::model::Half;

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Embedding,
    Layer(usize),
    /// The norm after the last layer, and the output layer.
    Output,
}

impl Part {
    /// Returns all parts in the order of computation.
    pub fn all(a: &Architecture) -> Vec<Self> {
        let layers = (0..a.layers).map(Part::Layer);
        [Part::Embedding].into_iter().chain(layers).chain([Part::Output]).collect()
    }
}

/// Tensors of a layer that have the same inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The norm on the input of half a layer.
    Before(Half),
    /// Its first projections.
    First(Half),
    /// The norms of queries and keys.
    Heads,
    /// Its last projection.
    Last(Half),
    /// The norm on its output.
    After(Half),
}

impl Step {
    /// Returns the steps of a layer in order.
    pub fn all() -> Vec<Self> {
        let of = |half| {
            let heads = (half == Half::Attention).then_some(Step::Heads);
            [Some(Step::Before(half)), Some(Step::First(half)), heads]
                .into_iter()
                .chain([Some(Step::Last(half)), Some(Step::After(half))])
                .flatten()
        };
        Half::ALL.into_iter().flat_map(of).collect()
    }

    /// Returns the names of its tensors in `layer`, without `.weight` or `.bias`.
    pub fn names(self, a: &Architecture, layer: usize) -> Vec<String> {
        let parts: Vec<&str> = match self {
            Step::Before(half) => half.norm_before(a).into_iter().collect(),
            Step::First(half) => half.first(a).to_vec(),
            Step::Heads if a.qk_norm == QkNorm::None => Vec::new(),
            Step::Heads => vec!["self_attn.q_norm", "self_attn.k_norm"],
            Step::Last(half) => vec![half.last()],
            Step::After(half) => half.norm_after(a).into_iter().collect(),
        };
        parts.into_iter().map(|part| format!("model.layers.{layer}.{part}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::checkpoint::Source;

    #[test]
    fn the_steps_cover_every_tensor_of_a_layer_once() {
        let source = Source::open("builtin:base").unwrap();
        let a = source.architecture().unwrap();
        let names: Vec<String> = Step::all().into_iter().flat_map(|s| s.names(a, 1)).collect();
        let unique: BTreeSet<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        let specs = a.tensors();
        let own = specs.iter().filter(|s| s.layer() == Some(1)).map(|s| s.name.clone());
        assert_eq!((names.len(), unique), (9, own.collect()));
    }
}
