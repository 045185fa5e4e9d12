//! `mean over pairs of cos(c[a], c[b])`: encourages sources to use distinct columns.
//!
//! The gradient is zero if all vectors are parallel, as at the uniform start.

use candle_core::{Result, Tensor};

use super::{norms_of_each, pairs, sum_of_each};

/// Returns the mean cosine of all pairs of sources in `c` (sources x ...); 0 for a single source.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let c = Tensor::new(&[[1f32, 0.0], [1.0, 1.0]], &Device::Cpu)?;
/// let similarity: f32 = dam_prelude::objective::cosine(&c)?.to_scalar()?;
/// assert!((similarity - 0.70711).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A scalar or a vector.
pub fn cosine(c: &Tensor) -> Result<Tensor> {
    let Some((a, b)) = pairs(c)? else { return c.zeros_like()?.sum_all() };
    let dot = sum_of_each(&(&a * &b)?)?;
    (dot / (norms_of_each(&a)? * norms_of_each(&b)?)?)?.mean_all()
}
