//! The scaled sum and its gradient over tensors on a device: with their kernels where there are
//! some, else in candle's operations.

use candle_core::{DType, Result, Tensor, Var};

use super::{Form, composed};
#[cfg(feature = "cuda")]
use crate::ops::kernels::on_cuda;

/// Whether a kernel writes the sum of `weights` in `dtype`.
pub(super) fn has_kernel(weights: &[Tensor], scales: &Tensor, dtype: DType) -> bool {
    #[cfg(feature = "cuda")]
    return matches!(dtype, DType::F32 | DType::BF16) && on_cuda::merges(weights, scales);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (weights, scales, dtype);
        false
    }
}

/// Returns `sum_i s_i * W_i` for weights as rows x columns, in the dtype of `scales` (sources x R x
/// C).
pub(super) fn forward(weights: &[Tensor], scales: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if has_kernel(weights, scales, scales.dtype()) {
        return on_cuda::merge(weights, scales);
    }
    composed::forward(weights, scales)
}

/// Like [`forward`], over `merged`, in its dtype and shape.
pub(super) fn forward_into(weights: &[Tensor], scales: &Tensor, merged: &Var) -> Result<()> {
    #[cfg(feature = "cuda")]
    if has_kernel(weights, scales, merged.dtype()) {
        return on_cuda::merge_into(weights, scales, merged);
    }
    let new = composed::forward(weights, scales)?.reshape(merged.shape())?;
    merged.set(&new.to_dtype(merged.dtype())?)
}

/// Maps the gradient of the sum (rows x columns) to that of the scales in `form`, sources x R x C.
pub(super) fn backward(weights: &[Tensor], gradient: &Tensor, form: Form) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if on_cuda::merges_back(weights, gradient) {
        return on_cuda::merge_backward(weights, gradient, form);
    }
    composed::backward(weights, gradient, form)
}
