//! RMS norm: `y = w * x / sqrt(mean(x^2) + eps)` over the last dimension (arXiv 1910.07467).
//!
//! With `r = 1 / sqrt(mean(x^2) + eps)` and `g = dy * w`:
//! `dx = r * g - x * r^3 * mean(g * x)`, `dw = sum over rows of dy * x * r`.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};

use rayon::prelude::*;

use super::kernels::has_kernels;
#[cfg(feature = "cuda")]
use super::kernels::on_cuda;
use super::{Real, elements, for_rows, is_fused, sum_of, with_elements, with_real};
use crate::vectorised::vectorised;

/// Rows per block of the sum for the weight's gradient.
const BLOCK: usize = 64;

struct RmsNorm {
    eps: f64,
}

#[inline(always)]
fn inverse_rms<T: Real>(x: &[T], eps: f64) -> T {
    let mean = sum_of([x], |[x]| x * x) / T::from_f64(x.len() as f64);
    (mean + T::from_f64(eps)).sqrt().recip()
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(x, T => {
            let (x, w) = (elements::<T>(x, xl)?, elements::<T>(w, wl)?);
            let n = w.len();
            let mut y = vec![T::default(); x.len()];
            for_rows(&mut y, n, #[inline(always)] |row, y| {
                let x = &x[row * n..][..n];
                let r = inverse_rms(x, self.eps);
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = *x * r * *w;
                }
            });
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), xl.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        w: &CudaStorage,
        wl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        on_cuda::rms_norm((x, xl), (w, wl), self.eps)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return on_cuda::rms_norm_backward(x, w, dy, self.eps);
        }
        match x.dtype() {
            DType::F64 => backward::<f64>(self.eps, x, w, dy),
            _ => backward::<f32>(self.eps, x, w, dy),
        }
    }
}

fn backward<T: Real>(
    eps: f64,
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    with_elements([x, w, dy], |[xs, ws, dys]: [&[T]; 3]| {
        let n = ws.len();
        let mut dx = vec![T::default(); xs.len()];
        for_rows(
            &mut dx,
            n,
            #[inline(always)]
            |row, dx| {
                let (x, dy) = (&xs[row * n..][..n], &dys[row * n..][..n]);
                let r = inverse_rms(x, eps);
                let mean = sum_of([x, dy, ws], |[x, dy, w]| x * dy * w) / T::from_f64(n as f64);
                let pull = r * r * r * mean;
                for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(ws) {
                    *dx = r * *dy * *w - *x * pull;
                }
            },
        );
        // Blocks of rows are summed separately, then in order, whatever the number of threads.
        let blocks = xs.par_chunks(n * BLOCK).zip(dys.par_chunks(n * BLOCK));
        let sums: Vec<Vec<T>> = blocks
            .map(|(xs, dys)| {
                let mut dw = vec![T::default(); n];
                vectorised(
                    #[inline(always)]
                    || {
                        for (x, dy) in xs.chunks(n).zip(dys.chunks(n)) {
                            let r = inverse_rms(x, eps);
                            for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                                *dw += *dy * *x * r;
                            }
                        }
                    },
                );
                dw
            })
            .collect();
        let mut dw = vec![T::default(); n];
        sums.iter().for_each(|sums| dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += *sum));
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        let dw = Tensor::from_vec(dw, w.shape(), w.device())?;
        Ok((Some(dx), Some(dw)))
    })
}

/// Normalises `x` (... x n) and scales it by `w` (n). Half precision is computed in f32.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let x = Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?;
/// let w = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;
/// let y: Vec<Vec<f32>> = dam_prelude::ops::rms_norm(&x, &w, 0.0)?.to_vec2()?;
/// assert!((y[0][0] - 0.84853).abs() < 1e-5 && (y[0][1] - 2.26274).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Dimensions or dtypes that do not match.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    if is_fused(x) || has_kernels(&[x, w]) {
        return x.contiguous()?.apply_op2(&w.contiguous()?, RmsNorm { eps });
    }
    composed(x, w, eps)
}

fn composed(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let x = x.to_dtype(wide)?;
    let scale = ((x.sqr()?.mean_keepdim(D::Minus1)? + eps)?).sqrt()?;
    // The weight too: its gradient is a sum over all rows.
    x.broadcast_div(&scale)?.broadcast_mul(&w.to_dtype(wide)?)?.to_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random, values};
    use candle_core::Var;

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        let (x, w) = (random(&[3, 5, 8], 1), random(&[8], 2));
        agrees(&rms_norm(&x, &w, 1e-5).unwrap(), &composed(&x, &w, 1e-5).unwrap());
        differentiates(&[x, w], |v| rms_norm(&v[0], &v[1], 1e-5));
    }

    #[test]
    fn the_composed_gradient_of_a_bf16_weight_is_summed_in_f32() {
        let half = |shape: &[usize], seed| random(shape, seed).to_dtype(DType::BF16).unwrap();
        let (x, w) = (half(&[500, 8], 1), half(&[8], 2));
        let gradient = |dtype: DType| {
            let w = Var::from_tensor(&w.to_dtype(dtype).unwrap()).unwrap();
            let y = composed(&x.to_dtype(dtype).unwrap(), w.as_tensor(), 1e-5).unwrap();
            let gradients = y.sum_all().unwrap().backward().unwrap();
            values(gradients.get(w.as_tensor()).unwrap())
        };
        let (found, exact) = (gradient(DType::BF16), gradient(DType::F64));
        let scale = exact.iter().fold(0.0, |most: f64, x| x.abs().max(most));
        for (found, exact) in found.into_iter().zip(exact) {
            assert!((found - exact).abs() < 5e-3 * scale, "{found} and {exact}");
        }
    }
}
