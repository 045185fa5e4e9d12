//! `L1 = sum_i ||c[i]||_1` and `L2 = sum_i ||c[i]||_2`: keep the coefficients small.

use candle_core::{Result, Tensor};

use super::norms_of_each;

/// Returns the sum of the 1-norms of the sources in `c` (sources x ...).
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let c = Tensor::new(&[[1f32, -2.0], [0.0, 3.0]], &Device::Cpu)?;
/// assert_eq!(dam_prelude::objective::l1(&c)?.to_scalar::<f32>()?, 6.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A scalar or a vector.
pub fn l1(c: &Tensor) -> Result<Tensor> {
    c.abs()?.sum_all()
}

/// Returns the sum of the 2-norms (not squared) of the sources in `c` (sources x ...).
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let c = Tensor::new(&[[3f32, 4.0], [0.0, 2.0]], &Device::Cpu)?;
/// assert_eq!(dam_prelude::objective::l2(&c)?.to_scalar::<f32>()?, 7.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A scalar or a vector.
pub fn l2(c: &Tensor) -> Result<Tensor> {
    norms_of_each(c)?.sum_all()
}
