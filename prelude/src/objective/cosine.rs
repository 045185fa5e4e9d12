//! `mean over pairs of cos(c[a], c[b])`: pushes sources to different columns.
//!
//! Its gradient is zero where all vectors are parallel, as at the uniform start.

use candle_core::{Result, Tensor};

use super::{pairs, row_norms};

/// The mean cosine of all pairs of rows of `c` (sources x columns); 0 for a single source.
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
/// A tensor that is not sources x columns.
pub fn cosine(c: &Tensor) -> Result<Tensor> {
    let Some((a, b)) = pairs(c)? else { return c.zeros_like()?.sum_all() };
    let dot = (&a * &b)?.sum(1)?;
    (dot / (row_norms(&a)? * row_norms(&b)?)?)?.mean_all()
}
