//! Task arithmetic: `W = base + lambda sum_i w_i (W_i - base)`.
//!
//! Ilharco et al., arXiv 2212.04089; mergekit's `task_arithmetic`.

use super::parameters::SCALES;
use super::task_vectors::TASK_ARITHMETIC;
use super::{MethodEntry, Origin, TaskVectors};

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "task_arithmetic",
    about: "task vectors, summed and added to the base",
    keys: TASK_ARITHMETIC,
    origin: Origin::Always,
    grid: &[SCALES],
    make: |given| task_arithmetic().given(given),
};

/// The sum of task vectors, each with weight 1.
pub fn task_arithmetic() -> TaskVectors {
    TaskVectors::plain(ENTRY.name)
}
