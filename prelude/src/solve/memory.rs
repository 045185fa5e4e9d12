//! The main memory that a sweep needs, from shapes.

use super::cholesky::MOST;
use super::streams::BATCH_TOKENS;
use crate::checkpoint::{Kind, TensorSpec};
use crate::coefficients::{Merge, Nonlinearity};

/// Returns the bytes for a sweep of `merge` over `tokens` tokens of all its data, in f32. Without a
/// scheme, the solved weights stay in memory.
pub(crate) fn bytes(merge: &Merge, tokens: usize, without_scheme: bool) -> u64 {
    let (a, sources) = (&merge.architecture, merge.sources());
    let queries = a.heads * a.head_dim;
    let widest = a.hidden.max(queries).max(a.intermediate);
    let specs = a.tensors();
    let elements = |spec: &TensorSpec| spec.shape.iter().product::<usize>();
    let projections = specs.iter().filter(|s| s.kind == Kind::Linear && s.layer().is_some());
    let solves_head = !without_scheme
        && merge
            .tensors
            .iter()
            .any(|t| t.trains && t.spec.kind == Kind::Linear && t.spec.name == a.output());
    // The residual stream and the input of a step, of the merge and of the source.
    let states = 2 * tokens * (a.hidden + widest);
    // Within a layer, of one batch: projections before and after rotation, gate, up and their
    // product, the target and what it is made of.
    let outputs = if solves_head { 3 * a.vocabulary } else { 0 };
    let batch =
        tokens.min(BATCH_TOKENS) * (6 * a.hidden + 6 * queries + 5 * a.intermediate + outputs);
    // Of one weight, or of a layer whose weights share parameters: its sources, the basis, the
    // merge, the right-hand side and what is derived from them.
    let mut weight = if shares_parameters(merge) {
        projections.clone().map(elements).sum::<usize>() / a.layers.max(1)
    } else {
        projections.clone().map(elements).max().unwrap_or(0)
    };
    if solves_head {
        weight = weight.max(a.vocabulary * a.hidden);
    }
    let weights = (2 * sources + 6) * weight;
    let kept = if without_scheme { projections.map(elements).sum() } else { 0 };
    let systems = [a.hidden, queries, a.intermediate].into_iter();
    let systems = systems.flat_map(|columns| [columns, sources * columns]);
    let factored = systems.filter(|n| *n <= MOST).max().unwrap_or(0);
    let floats = states + batch + weights + kept + 3 * widest * widest;
    // With bounds, also the system in terms of the scales and its part that is free.
    let copies = if merge.wrap.options.f == Nonlinearity::None { 2 } else { 4 };
    (size_of::<f32>() * floats + copies * size_of::<f64>() * factored * factored) as u64
}

/// Whether tensors share parameters.
fn shares_parameters(merge: &Merge) -> bool {
    let mut used = vec![0; merge.variables.len()];
    let trained = merge.tensors.iter().filter(|t| t.trains);
    trained.flat_map(|t| &t.variables).for_each(|i| used[*i] += 1);
    used.into_iter().any(|count| count > 1)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::checkpoint::Source;
    use crate::coefficients::{Columns, PerLayer, Wrap};

    #[test]
    fn memory_grows_with_tokens_sources_and_what_is_kept() {
        let names = ["builtin:base", "builtin:math", "builtin:sql", "builtin:japanese"];
        let sources = names.map(|name| Source::open(name).unwrap());
        let merge =
            |count: usize, how: Wrap| Merge::new(&sources[..count], how, Device::Cpu).unwrap();
        let three = merge(3, Columns::default().into());
        let small = bytes(&three, 1000, false);
        assert!(small > 4 << 20 && small < 100 << 20, "{small}");
        assert!(bytes(&three, 2000, false) > small && bytes(&three, 1000, true) > small);
        assert!(bytes(&merge(4, Columns::default().into()), 1000, false) > small);
        assert!(bytes(&merge(3, PerLayer.into()), 1000, false) > small);
    }
}
