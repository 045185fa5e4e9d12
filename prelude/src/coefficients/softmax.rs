//! Coefficients that are positive and sum to 1 over sources, column by column.
//!
//! `c[i, j] = exp(p[i, j]) / sum_k exp(p[k, j])`, with `p` the parameters; `p = ln(start)`.

use candle_core::{Result, Tensor};

use super::columns::by_column;
use super::{Parameter, Scheme, Site};

/// A softmax over sources for each column. Biases are averaged, whatever their initial value in
/// other schemes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Softmax;

impl Scheme for Softmax {
    fn name(&self) -> String {
        "softmax".into()
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let mut parameter = by_column(site);
        parameter.start.iter_mut().for_each(|x| *x = x.ln());
        vec![parameter]
    }

    fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> Result<Tensor> {
        softmax_over_sources(&parameters[0])
    }
}

/// Computes `exp(x[i]) / sum_k exp(x[k])` over the first dimension of `x`, differentiable, for use
/// in schemes.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let x = Tensor::new(&[[0f32, 0.0], [0.0, 3f32.ln()]], &Device::Cpu)?;
/// let y: Vec<Vec<f32>> = dam_prelude::coefficients::softmax_over_sources(&x)?.to_vec2()?;
/// assert!((y[0][0] - 0.5).abs() < 1e-6 && (y[1][1] - 0.75).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A scalar.
pub fn softmax_over_sources(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(0)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(0)?)
}
