//! Starts a backward pass inside the graph, from a known gradient.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Tensor,
};

/// A zero with a given gradient with respect to its operand.
struct InjectGradient {
    gradient: Tensor,
    /// The zero, on the device of the operand.
    zero: Tensor,
}

/// Returns a copy of the storage of `$made` (a contiguous tensor made outside the graph), and its
/// shape: the result of an operation whose forward pass is known.
macro_rules! copied {
    ($made:expr, $kind:ident) => {{
        let made: &candle_core::Tensor = $made;
        let (storage, layout) = made.storage_and_layout();
        match &*storage {
            candle_core::Storage::$kind(storage) => Ok((
                candle_core::backend::BackendStorage::try_clone(storage, layout)?,
                made.shape().clone(),
            )),
            _ => candle_core::bail!(
                "the result of an operation is on another device than its operands"
            ),
        }
    }};
}
pub(super) use copied;

impl CustomOp1 for InjectGradient {
    fn name(&self) -> &'static str {
        "inject-gradient"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        copied!(&self.zero, Cpu)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        copied!(&self.zero, Cuda)
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        copied!(&self.zero, Metal)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient.clone()))
    }
}

/// Returns a scalar whose backward pass starts with `gradient` at `y` (equal shapes).
///
/// # Errors
/// Shapes or dtypes that differ.
pub fn inject_gradient(y: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    if y.dims() != gradient.dims() || y.dtype() != gradient.dtype() {
        candle_core::bail!("inject_gradient: {:?} does not fit {:?}", gradient.dims(), y.dims());
    }
    let zero = Tensor::zeros((), y.dtype(), y.device())?;
    y.apply_op1(InjectGradient { gradient: gradient.detach(), zero })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, random};

    #[test]
    fn the_gradient_is_passed_through_unchanged() {
        let (x, gradient) =
            (candle_core::Var::from_tensor(&random(&[2, 3], 1)).unwrap(), random(&[2, 3], 2));
        let y = (x.as_tensor() * 2.0).unwrap();
        let grads = inject_gradient(&y, &gradient).unwrap().backward().unwrap();
        agrees(grads.get(x.as_tensor()).unwrap(), &(&gradient * 2.0).unwrap());
        assert!(inject_gradient(&y, &random(&[3, 2], 2)).is_err());
    }
}
