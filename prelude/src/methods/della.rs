//! DELLA: drops elements of task vectors at random, with a higher probability for smaller elements
//! of a row, and rescales the rest. They are averaged by sign consensus (`della`), or summed
//! directly (`della_linear`).
//!
//! Deep et al., arXiv 2406.11617; mergekit's `della` and `della_linear`.

use super::parameters::{DENSITIES, INT8_MASK, Key, NORMALIZE, SCALES, WEIGHT};
use super::task_vectors::{DENSITY, LAMBDA, NORMALIZE_OFF, RESCALE, SEED};
use super::{MethodEntry, Origin, Rescale, Signs, Sparsify, TaskVectors};

const EPSILON: Key = Key::each("epsilon", "0.15");

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "della",
    about: "task vectors with elements dropped at random by magnitude, with sign consensus",
    keys: &[WEIGHT, DENSITY, EPSILON, NORMALIZE, RESCALE, LAMBDA, SEED, INT8_MASK],
    origin: Origin::Always,
    grid: &[DENSITIES, SCALES],
    make: |given| della().given(given),
};

pub(super) const LINEAR: MethodEntry = MethodEntry {
    name: "della_linear",
    about: "the same without sign consensus",
    keys: &[WEIGHT, DENSITY, EPSILON, NORMALIZE_OFF, RESCALE, LAMBDA, SEED, INT8_MASK],
    make: |given| della_linear().given(given),
    ..ENTRY
};

/// DELLA with density 1; set `density` to drop elements.
pub fn della() -> TaskVectors {
    TaskVectors { name: ENTRY.name, signs: Signs::Elected, normalize: true, ..della_linear() }
}

/// [`della`] without sign consensus.
pub fn della_linear() -> TaskVectors {
    TaskVectors {
        sparsify: Sparsify::Ranked { epsilon: vec![0.15], seed: 0 },
        rescale: Rescale::L1,
        ..TaskVectors::plain(LINEAR.name)
    }
}
