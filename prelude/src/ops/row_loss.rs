//! Losses that are a sum over rows of a function of one row of logits: what KL, entropy and cross
//! entropy share. The gradient is computed from the logits again, so that nothing but them is kept.

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, WithDType};

use super::{Real, elements, for_rows_of, is_fused, max_of, sum_of, with_elements, with_real};

/// A loss of one row of logits.
pub(crate) trait RowLoss: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    /// Logits of the teacher (rows x width), where the loss has one.
    fn teacher(&self) -> Option<&Tensor> {
        None
    }

    /// The loss of row `index`; with `dz`, its gradient too.
    fn row<T: Real>(&self, index: usize, z: &[T], teacher: &[T], dz: Option<&mut [T]>) -> T;

    /// The same in candle's operations, summed over rows.
    fn composed(&self, z: &Tensor) -> Result<Tensor>;
}

struct Op<L>(L);

impl<L: RowLoss> Op<L> {
    /// Calls `f(row, teacher's row, out)` for every row of `out`, `width` elements each.
    fn rows<T: Real>(
        &self,
        (count, cost): (usize, usize),
        out: &mut [T],
        width: usize,
        f: impl Fn(usize, &[T], &mut [T]) + Sync,
    ) -> Result<()> {
        let Some(teacher) = self.0.teacher() else {
            for_rows_of(out, width, cost, |row, out| f(row, &[], out));
            return Ok(());
        };
        with_elements([teacher], |[teacher]: [&[T]; 1]| {
            let n = teacher.len() / count.max(1);
            for_rows_of(out, width, cost, |row, out| f(row, &teacher[row * n..][..n], out));
            Ok(())
        })
    }

    fn gradient<T: Real>(&self, z: &Tensor, upstream: f64) -> Result<Tensor> {
        let (count, width) = z.dims2()?;
        let scale = <T as WithDType>::from_f64(upstream);
        with_elements([z], |[zs]: [&[T]; 1]| {
            let mut dz = vec![T::default(); zs.len()];
            self.rows((count, width), &mut dz, width, |row, teacher, dz| {
                self.0.row(row, &zs[row * width..][..width], teacher, Some(&mut *dz));
                dz.iter_mut().for_each(|d| *d *= scale);
            })?;
            Tensor::from_vec(dz, (count, width), &Device::Cpu)
        })
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
            let mut losses = vec![T::default(); count];
            self.rows((count, width), &mut losses, 1, |row, teacher, loss| {
                loss[0] = self.0.row(row, &z[row * width..][..width], teacher, None);
            })?;
            // Summed in f64: thousands of rows would lose digits in f32.
            let sum: f64 = losses.iter().map(|loss| WithDType::to_f64(*loss)).sum();
            Ok((T::to_cpu_storage_owned(vec![<T as WithDType>::from_f64(sum)]), Shape::from(())))
        })
    }

    fn bwd(&self, z: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream = upstream.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(Some(match z.dtype() {
            DType::F64 => self.gradient::<f64>(z, upstream)?,
            _ => self.gradient::<f32>(z, upstream)?,
        }))
    }
}

/// The sum over rows of `z` (rows x width) of `loss`.
pub(crate) fn row_loss<L: RowLoss>(z: &Tensor, loss: L) -> Result<Tensor> {
    let (rows, _) = z.dims2()?;
    if let Some(teacher) = loss.teacher()
        && (teacher.dims() != z.dims() || teacher.dtype() != z.dtype() || rows == 0)
    {
        candle_core::bail!("{}: {:?} {:?} does not fit {:?} {:?}", L::NAME, teacher.dims(), teacher.dtype(), z.dims(), z.dtype());
    }
    if is_fused(z) { z.contiguous()?.apply_op1(Op(loss)) } else { loss.composed(z) }
}

/// `log(sum(exp(z / temperature)))` of one row, without overflow.
#[inline(always)]
pub(crate) fn log_sum_exp<T: Real>(z: &[T], temperature: T) -> T {
    let (top, scale) = (max_of(z), temperature.recip());
    top * scale + sum_of([z], |[z]| ((z - top) * scale).exp_fast()).ln()
}

/// `z / temperature - log_sum_exp(z / temperature)` over the last dimension, differentiable.
pub(crate) fn log_softmax(z: &Tensor, temperature: f64) -> Result<Tensor> {
    let z = (z.to_dtype(if z.dtype() == DType::F64 { DType::F64 } else { DType::F32 })? / temperature)?;
    let z = z.broadcast_sub(&z.max_keepdim(D::Minus1)?.detach())?;
    z.broadcast_sub(&z.exp()?.sum_keepdim(D::Minus1)?.log()?)
}
