//! Model Breadcrumbs: neither the smallest elements of task vectors nor the largest, which are taken for outliers;
//! summed as they are, or where signs agree (`breadcrumbs_ties`). Where the share `gamma` of a tensor is less
//! than one element, none counts as an outlier.
//!
//! Davari and Belilovsky, arXiv 2312.06795; mergekit's `breadcrumbs` and `breadcrumbs_ties`.

use super::parameters::{DENSITIES, INT8_MASK, Key, SCALES, WEIGHT};
use super::task_vectors::{DENSITY, LAMBDA, NORMALIZE_OFF, RESCALE_OFF};
use super::{Entry, Origin, Signs, Sparsify, TaskVectors};

const KEYS: &[Key] = &[WEIGHT, DENSITY, Key::each("gamma", "0.01"), NORMALIZE_OFF, RESCALE_OFF, LAMBDA, INT8_MASK];

pub(super) const ENTRY: Entry = Entry {
    name: "breadcrumbs",
    about: "what sources have learnt without its smallest and largest elements",
    keys: KEYS,
    origin: Origin::Always,
    grid: &[DENSITIES, SCALES],
    make: |given| breadcrumbs().given(given),
};

pub(super) const TIES: Entry = Entry {
    name: "breadcrumbs_ties",
    about: "the same, where they agree on the sign",
    keys: KEYS,
    origin: Origin::Always,
    grid: &[DENSITIES, SCALES],
    make: |given| breadcrumbs_ties().given(given),
};

/// Breadcrumbs with all elements kept; set `density` to drop some.
pub fn breadcrumbs() -> TaskVectors {
    TaskVectors { sparsify: Sparsify::Outliers { gamma: vec![0.01] }, ..TaskVectors::plain(ENTRY.name) }
}

/// [`breadcrumbs`] with elected signs.
pub fn breadcrumbs_ties() -> TaskVectors {
    TaskVectors { name: TIES.name, signs: Signs::Elected, ..breadcrumbs() }
}
