//! Model Breadcrumbs: drops both the smallest and the largest elements (outliers) of task vectors.
//! They are summed directly, or by sign consensus (`breadcrumbs_ties`). If the fraction `gamma` of
//! a tensor is less than one element, no element is an outlier.
//!
//! Davari and Belilovsky, arXiv 2312.06795; mergekit's `breadcrumbs` and `breadcrumbs_ties`.

use super::parameters::{DENSITIES, INT8_MASK, Key, SCALES, WEIGHT};
use super::task_vectors::{DENSITY, LAMBDA, NORMALIZE_OFF, RESCALE_OFF};
use super::{MethodEntry, Origin, Signs, Sparsify, TaskVectors};

const GAMMA: Key = Key::each("gamma", "0.01");

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "breadcrumbs",
    about: "task vectors without their smallest and largest elements",
    keys: &[WEIGHT, DENSITY, GAMMA, NORMALIZE_OFF, RESCALE_OFF, LAMBDA, INT8_MASK],
    origin: Origin::Always,
    grid: &[DENSITIES, SCALES],
    make: |given| breadcrumbs().given(given),
};

pub(super) const TIES: MethodEntry = MethodEntry {
    name: "breadcrumbs_ties",
    about: "the same with sign consensus",
    make: |given| breadcrumbs_ties().given(given),
    ..ENTRY
};

/// Breadcrumbs with density 1; set `density` to drop elements.
pub fn breadcrumbs() -> TaskVectors {
    TaskVectors {
        sparsify: Sparsify::Outliers { gamma: vec![0.01] },
        ..TaskVectors::plain(ENTRY.name)
    }
}

/// [`breadcrumbs`] with sign consensus.
pub fn breadcrumbs_ties() -> TaskVectors {
    TaskVectors { name: TIES.name, signs: Signs::Elected, ..breadcrumbs() }
}
