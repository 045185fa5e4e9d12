//! TIES: the largest elements of each task vector, of elected signs, averaged.
//!
//! Yadav et al., arXiv 2306.01708; mergekit's `ties`.

use super::parameters::{DENSITIES, INT8_MASK, NORMALIZE, SCALES, WEIGHT};
use super::task_vectors::{DENSITY, LAMBDA, RESCALE_OFF};
use super::{Entry, Origin, Signs, Sparsify, TaskVectors};

pub(super) const ENTRY: Entry = Entry {
    name: "ties",
    about: "the largest of what sources have learnt, where they agree on the sign",
    keys: &[WEIGHT, DENSITY, NORMALIZE, RESCALE_OFF, LAMBDA, INT8_MASK],
    origin: Origin::Always,
    grid: &[DENSITIES, SCALES],
    make: |given| ties().given(given),
};

/// TIES with all elements kept; set `density` to keep the largest.
pub fn ties() -> TaskVectors {
    TaskVectors { sparsify: Sparsify::Magnitude, signs: Signs::Elected, normalize: true, ..TaskVectors::plain(ENTRY.name) }
}
