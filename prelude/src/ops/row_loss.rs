//! Losses that sum a function over rows of logits: the common part of KL, entropy and cross
//! entropy. If a gradient will be needed, it is computed together with the loss in one pass over
//! the row.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{
    CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, WithDType,
};

use super::kernels::has_kernels;
#[cfg(feature = "cuda")]
use super::kernels::on_cuda;
use super::{Real, elements, for_rows_of, is_fused, max_of, sum_of, with_elements, with_real};

/// A loss of one row of logits.
pub(crate) trait RowLoss: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    /// The teacher's logits (rows x width), if the loss has a teacher.
    fn teacher(&self) -> Option<&Tensor> {
        None
    }

    /// Returns the loss of row `index`; with `dz`, also writes its gradient there.
    fn row<T: Real>(&self, index: usize, z: &[T], teacher: &[T], dz: Option<&mut [T]>) -> T;

    /// The same as a kernel, with what it reads on `device`.
    #[cfg(feature = "cuda")]
    fn kernel(&self, device: &Device) -> Result<on_cuda::Loss<Tensor>>;

    /// The same in candle's operations, summed over rows.
    fn composed(&self, z: &Tensor) -> Result<Tensor>;
}

struct Op<L> {
    loss: L,
    /// The gradient from the forward pass, until the backward pass takes it.
    gradient: Mutex<Option<Tensor>>,
    wanted: bool,
}

impl<L: RowLoss> Op<L> {
    /// Calls `f(row, teacher's row, out)` for every row of `out`, `width` elements each.
    fn rows<T: Real>(
        &self,
        (count, cost): (usize, usize),
        out: &mut [T],
        width: usize,
        f: impl Fn(usize, &[T], &mut [T]) + Sync,
    ) -> Result<()> {
        let Some(teacher) = self.loss.teacher() else {
            for_rows_of(
                out,
                width,
                cost,
                #[inline(always)]
                |row, out| f(row, &[], out),
            );
            return Ok(());
        };
        with_elements([teacher], |[teacher]: [&[T]; 1]| {
            let n = teacher.len() / count.max(1);
            for_rows_of(
                out,
                width,
                cost,
                #[inline(always)]
                |row, out| f(row, &teacher[row * n..][..n], out),
            );
            Ok(())
        })
    }

    /// Computes the loss of every row and, if needed, the gradient of `z`.
    fn forward<T: Real>(&self, z: &[T], (count, width): (usize, usize)) -> Result<Vec<T>> {
        let mut losses = vec![T::default(); count];
        if !self.wanted {
            self.rows(
                (count, width),
                &mut losses,
                1,
                #[inline(always)]
                |row, teacher, loss| {
                    loss[0] = self.loss.row(row, &z[row * width..][..width], teacher, None);
                },
            )?;
            return Ok(losses);
        }
        // A row of the gradient, followed by its loss.
        let mut dz = vec![T::default(); z.len()];
        let sums: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
        self.rows(
            (count, width),
            &mut dz,
            width,
            #[inline(always)]
            |row, teacher, dz| {
                let loss = self.loss.row(row, &z[row * width..][..width], teacher, Some(dz));
                sums[row].store(WithDType::to_f64(loss).to_bits(), Ordering::Relaxed);
            },
        )?;
        for (loss, sum) in losses.iter_mut().zip(&sums) {
            *loss = <T as WithDType>::from_f64(f64::from_bits(sum.load(Ordering::Relaxed)));
        }
        let gradient = Tensor::from_vec(dz, (count, width), &Device::Cpu)?;
        *self.gradient.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
        Ok(losses)
    }
}

impl<L: RowLoss> CustomOp1 for Op<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn cpu_fwd(&self, z: &CpuStorage, zl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, width) = zl.shape().dims2()?;
        with_real!(z, T => {
            let z = elements::<T>(z, zl)?;
            let losses = self.forward(z, (count, width))?;
            // Summed in f64: over thousands of rows, f32 would lose digits.
            let sum: f64 = losses.iter().map(|loss| WithDType::to_f64(*loss)).sum();
            Ok((T::to_cpu_storage_owned(vec![<T as WithDType>::from_f64(sum)]), Shape::from(())))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, z: &CudaStorage, zl: &Layout) -> Result<(CudaStorage, Shape)> {
        let loss = self.loss.kernel(&Device::Cuda(z.device.clone()))?;
        let (sum, gradient) = on_cuda::loss((z, zl), &loss, self.wanted)?;
        *self.gradient.lock().unwrap_or_else(PoisonError::into_inner) = gradient;
        Ok((sum, Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let made = self.gradient.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(gradient) = made else {
            candle_core::bail!("{}: its backward pass has been made", L::NAME)
        };
        #[cfg(feature = "cuda")]
        if gradient.device().is_cuda() {
            on_cuda::scale(&gradient, upstream)?;
            return Ok(Some(gradient));
        }
        let upstream = upstream.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(Some((gradient * upstream)?))
    }
}

/// Returns `loss` summed over the rows of `z` (rows x width).
pub(crate) fn row_loss<L: RowLoss>(z: &Tensor, loss: L) -> Result<Tensor> {
    let (rows, _) = z.dims2()?;
    if let Some(teacher) = loss.teacher()
        && (teacher.dims() != z.dims() || teacher.dtype() != z.dtype() || rows == 0)
    {
        candle_core::bail!(
            "{}: {:?} {:?} does not fit {:?} {:?}",
            L::NAME,
            teacher.dims(),
            teacher.dtype(),
            z.dims(),
            z.dtype()
        );
    }
    let kernel =
        has_kernels(&[z]) && loss.teacher().is_none_or(|teacher| has_kernels(&[z, teacher]));
    if is_fused(z) || kernel {
        z.contiguous()?.apply_op1(Op { loss, gradient: Mutex::default(), wanted: z.track_op() })
    } else {
        loss.composed(z)
    }
}

/// Returns `log(sum(exp(z / temperature)))` of one row, without overflow.
#[inline(always)]
pub(crate) fn log_sum_exp<T: Real>(z: &[T], temperature: T) -> T {
    let (top, scale) = (max_of(z), temperature.recip());
    top * scale + sum_of([z], |[z]| ((z - top) * scale).exp_fast()).ln()
}

/// Returns `z / temperature - log_sum_exp(z / temperature)` over the last dimension,
/// differentiable.
pub(crate) fn log_softmax(z: &Tensor, temperature: f64) -> Result<Tensor> {
    let z =
        (z.to_dtype(if z.dtype() == DType::F64 { DType::F64 } else { DType::F32 })? / temperature)?;
    let z = z.broadcast_sub(&z.max_keepdim(D::Minus1)?.detach())?;
    z.broadcast_sub(&z.exp()?.sum_keepdim(D::Minus1)?.log()?)
}
