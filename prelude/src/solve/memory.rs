//! The main memory that a sweep needs, from shapes.

use super::cholesky::MOST;
use super::streams::BATCH_TOKENS;
use crate::checkpoint::{Architecture, Kind};

/// Returns the bytes for a sweep of `sources` sources over `tokens` tokens of all their data, in
/// f32.
pub(crate) fn bytes(a: &Architecture, sources: usize, tokens: usize) -> u64 {
    let float = size_of::<f32>() as u64;
    let queries = a.heads * a.head_dim;
    let widest = a.hidden.max(queries).max(a.intermediate);
    // The residual stream and the input of a step, of the merge and of the source.
    let states = 2 * tokens * (a.hidden + widest);
    // Within a layer, of one batch: projections before and after rotation, gate, up and their
    // product, the target and what it is made of.
    let batch = tokens.min(BATCH_TOKENS) * (6 * a.hidden + 6 * queries + 5 * a.intermediate);
    // Of one weight: its sources, the basis, the merge, the right-hand side and what is derived
    // from them.
    let of_layer = |kind, layer: Option<usize>| kind == Kind::Linear && layer.is_some();
    let specs = a.tensors();
    let projections = specs.iter().filter(|s| of_layer(s.kind, s.layer()));
    let weight = projections.map(|s| s.shape.iter().product::<usize>()).max().unwrap_or(0);
    let weights = (2 * sources + 6) * weight;
    let unknowns = |columns: usize| sources * columns;
    let factored = [a.hidden, queries, a.intermediate].map(unknowns);
    let factored = factored.into_iter().filter(|n| *n <= MOST).max().unwrap_or(0);
    let floats = states + batch + weights + 3 * widest * widest;
    float * floats as u64 + 2 * 8 * (factored * factored) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Source;

    #[test]
    fn memory_grows_with_tokens_and_sources() {
        let source = Source::open("builtin:base").unwrap();
        let a = source.architecture().unwrap();
        let small = bytes(a, 3, 1000);
        assert!(small > 4 << 20 && small < 100 << 20, "{small}");
        assert!(bytes(a, 3, 2000) > small && bytes(a, 4, 1000) > small);
    }
}
