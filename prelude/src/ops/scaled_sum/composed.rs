//! The scaled sum and its gradient in candle's own operations, for devices without a kernel.

use candle_core::{Result, Tensor};

use super::Form;

/// Returns `sum_i s_i * W_i` for weights as rows x columns; `scales` is sources x R x C.
pub(super) fn forward(weights: &[Tensor], scales: &Tensor) -> Result<Tensor> {
    let scaled = |i: usize, w: &Tensor| w.to_dtype(scales.dtype())?.broadcast_mul(&scales.get(i)?);
    let mut all = weights.iter().enumerate();
    let Some((i, first)) = all.next() else { candle_core::bail!("nothing to sum") };
    all.try_fold(scaled(i, first)?, |sum, (i, w)| sum + scaled(i, w)?)
}

/// Maps the gradient of the sum (rows x columns) to that of the scales in `form`, sources x R x C.
pub(super) fn backward(weights: &[Tensor], gradient: &Tensor, form: Form) -> Result<Tensor> {
    let one = |w: &Tensor| {
        let each = (gradient * w.to_dtype(gradient.dtype())?)?;
        let each = if form.rows == 1 { each.sum_keepdim(0)? } else { each };
        if form.columns == 1 { each.sum_keepdim(1) } else { Ok(each) }
    };
    Tensor::stack(&weights.iter().map(one).collect::<Result<Vec<_>>>()?, 0)
}
