//! The gradient of a weight, `dW = sum over products of dy^T x`, accumulated in memory that is
//! reused in every step: mapping the pages of fresh memory of that size would cost more than the
//! sum.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, DType, InplaceOp3, Layout, Result, Tensor};

use super::product::{Into, Matrix, product};
use super::{Real, elements, is_fused, with_real};

/// The accumulator of the gradient of one weight. It is a handle: clones share the sum.
#[derive(Clone, Default)]
pub struct Gradient(Arc<Mutex<Sum>>);

#[derive(Default)]
struct Sum {
    /// out x in.
    total: Option<Tensor>,
    /// Whether anything was added since the last `clear`.
    reached: bool,
}

impl Gradient {
    fn lock(&self) -> MutexGuard<'_, Sum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds `dy^T x` for `dy` (rows x out) and `x` (rows x in).
    ///
    /// # Errors
    /// Shapes that do not match each other or the sum.
    pub fn add_product(&self, dy: &Tensor, x: &Tensor) -> Result<()> {
        let ((rows, out), (more, inner)) = (dy.dims2()?, x.dims2()?);
        let mut sum = self.lock();
        // Half precision would lose what many products add up to.
        let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let fits = |t: &Tensor| {
            t.dims() == [out, inner] && t.dtype() == dtype && t.device().same_device(x.device())
        };
        if rows != more || (sum.reached && !sum.total.as_ref().is_some_and(fits)) {
            candle_core::bail!("gradient: {:?} and {:?} do not fit", dy.dims(), x.dims());
        }
        if !is_fused(x) {
            let product = dy.t()?.matmul(x)?.to_dtype(dtype)?;
            let before = sum.total.take().filter(|_| sum.reached);
            sum.total = Some(before.map_or(Ok(product.clone()), |before| before + product)?);
            sum.reached = true;
            return Ok(());
        }
        let total = match sum.total.take().filter(fits) {
            Some(total) => total,
            None => Tensor::zeros((out, inner), x.dtype(), x.device())?,
        };
        total.inplace_op3(
            &dy.contiguous()?,
            &x.contiguous()?,
            &AddProduct { read: sum.reached },
        )?;
        sum.total = Some(total);
        sum.reached = true;
        Ok(())
    }

    /// Returns the sum: out x in; `None` if nothing was added. It is overwritten after the next
    /// `clear`.
    pub fn total(&self) -> Option<Tensor> {
        let sum = self.lock();
        sum.total.clone().filter(|_| sum.reached)
    }

    /// Starts a new sum in the same memory.
    pub fn clear(&self) {
        self.lock().reached = false;
    }
}

struct AddProduct {
    /// Whether the existing sum is kept.
    read: bool,
}

impl InplaceOp3 for AddProduct {
    fn name(&self) -> &'static str {
        "add-product"
    }

    fn cpu_fwd(
        &self,
        total: &mut CpuStorage,
        _: &Layout,
        dy: &CpuStorage,
        dyl: &Layout,
        x: &CpuStorage,
        xl: &Layout,
    ) -> Result<()> {
        let (dy_dims, x_dims) = (dyl.shape().dims2()?, xl.shape().dims2()?);
        let into = if self.read { Into::Add } else { Into::Replace };
        with_real!(dy, T => {
            let dy = Matrix::new(elements::<T>(dy, dyl)?, dy_dims.0, dy_dims.1, dy_dims.1);
            let x = Matrix::new(elements::<T>(x, xl)?, x_dims.0, x_dims.1, x_dims.1);
            product(dy.t(), x, num_traits::One::one(), (T::slice_mut(total)?, x_dims.1), into, true);
        });
        Ok(())
    }
}
