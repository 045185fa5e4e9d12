//! TIES: the largest elements of each task vector, averaged with sign consensus.
//!
//! Yadav et al., arXiv 2306.01708; mergekit's `ties`.

use super::parameters::{DENSITIES, INT8_MASK, NORMALIZE, SCALES, WEIGHT};
use super::task_vectors::{DENSITY, LAMBDA, RESCALE_OFF};
use super::{MethodEntry, Origin, Signs, Sparsify, TaskVectors};

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "ties",
    about: "the largest elements of task vectors, with sign consensus",
    keys: &[WEIGHT, DENSITY, NORMALIZE, RESCALE_OFF, LAMBDA, INT8_MASK],
    origin: Origin::Always,
    grid: &[DENSITIES, SCALES],
    make: |given| ties().given(given),
};

/// TIES with density 1; set `density` to keep only the largest elements.
pub fn ties() -> TaskVectors {
    TaskVectors {
        sparsify: Sparsify::Magnitude,
        signs: Signs::Elected,
        normalize: true,
        ..TaskVectors::plain(ENTRY.name)
    }
}
