//! DARE: drops elements of task vectors at random and rescales the rest. They are summed directly
//! (`dare_linear`) or by sign consensus (`dare_ties`). `rescale=on` preserves the L1 norm, as
//! mergekit does; `rescale=density` divides by the density, as the paper does.
//!
//! Yu et al., arXiv 2311.03099; mergekit's `dare_linear` and `dare_ties`.

use super::parameters::{DENSITIES, INT8_MASK, SCALES, WEIGHT};
use super::task_vectors::{DENSITY, LAMBDA, NORMALIZE_OFF, RESCALE, SEED};
use super::{MethodEntry, Origin, Rescale, Signs, Sparsify, TaskVectors};

pub(super) const LINEAR: MethodEntry = MethodEntry {
    name: "dare_linear",
    about: "task vectors with elements dropped at random and the rest rescaled",
    keys: &[WEIGHT, DENSITY, NORMALIZE_OFF, RESCALE, LAMBDA, SEED, INT8_MASK],
    origin: Origin::Always,
    grid: &[DENSITIES, SCALES],
    make: |given| dare_linear().given(given),
};

pub(super) const TIES: MethodEntry = MethodEntry {
    name: "dare_ties",
    about: "the same with sign consensus",
    make: |given| dare_ties().given(given),
    ..LINEAR
};

/// DARE with density 1; set `density` to drop elements.
pub fn dare_linear() -> TaskVectors {
    TaskVectors {
        sparsify: Sparsify::Random { seed: 0 },
        rescale: Rescale::L1,
        ..TaskVectors::plain(LINEAR.name)
    }
}

/// [`dare_linear`] with sign consensus.
pub fn dare_ties() -> TaskVectors {
    TaskVectors { name: TIES.name, signs: Signs::Elected, ..dare_linear() }
}
