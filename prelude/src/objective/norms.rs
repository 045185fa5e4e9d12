//! `L1 = sum_i ||c[i]||_1` and `L2 = sum_i ||c[i]||_2`: keep coefficients small.

use candle_core::{Result, Tensor};

use super::row_norms;

/// The sum of the 1-norms of the rows of `c` (sources x columns).
///
/// # Errors
/// A tensor that is not sources x columns.
pub fn l1(c: &Tensor) -> Result<Tensor> {
    c.abs()?.sum_all()
}

/// The sum of the 2-norms (not squared) of the rows of `c` (sources x columns).
///
/// # Errors
/// A tensor that is not sources x columns.
pub fn l2(c: &Tensor) -> Result<Tensor> {
    row_norms(c)?.sum_all()
}
