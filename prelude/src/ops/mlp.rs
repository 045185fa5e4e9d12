//! A whole MLP as one operation, `y = (f(x Wg^T) * (x Wu^T)) Wd^T` (arXiv 2002.05202), with weights
//! whose gradients are accumulated elsewhere.
//!
//! candle would make separate passes between the products and add gradients to zeros. Here
//! `da = dy Wd`, `dg = da * u * f'(g)` and `du = da * f(g)` are one pass, and `dx = dg Wg + du Wu`
//! is computed in place.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::gated::gate;
use super::product::{Into, Matrix, new_product, product};
use super::{Gradient, PARALLEL, Real, elements, is_fused, with_elements, with_real};
use crate::checkpoint::Activation;
use crate::vectorised::vectorised;

/// A weight (out x in) that is not tracked, and the accumulator of its gradient.
pub type Weight<'a> = (&'a Tensor, Option<&'a Gradient>);

struct Mlp {
    /// Gate, up and down.
    weights: [(Tensor, Option<Gradient>); 3],
    f: Activation,
    /// `x Wg^T` and `x Wu^T`, until the backward pass takes them.
    inner: Mutex<Option<[Tensor; 2]>>,
}

impl Mlp {
    fn forward<T: Real>(&self, x: &[T], (rows, hidden): (usize, usize)) -> Result<Vec<T>> {
        let weights = self.weights.each_ref().map(|(w, _)| w);
        let inner = weights[0].dim(0)?;
        with_elements(weights, |[wg, wu, wd]: [&[T]; 3]| {
            let x = Matrix::new(x, rows, hidden, hidden);
            let g = new_product(x, Matrix::new(wg, inner, hidden, hidden).t());
            let u = new_product(x, Matrix::new(wu, inner, hidden, hidden).t());
            let a = gate(self.f, &g, &u);
            let y = new_product(
                Matrix::new(&a, rows, inner, inner),
                Matrix::new(wd, hidden, inner, inner).t(),
            );
            let tensor = |values| Tensor::from_vec(values, (rows, inner), weights[0].device());
            *self.inner.lock().unwrap_or_else(PoisonError::into_inner) =
                Some([tensor(g)?, tensor(u)?]);
            Ok(y)
        })
    }

    fn backward<T: Real>(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let Some([g, u]) = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            candle_core::bail!("mlp: its backward pass has been made");
        };
        let ((rows, hidden), (_, inner)) = (dy.dims2()?, g.dims2()?);
        let [gate, up, down] = &self.weights;
        let (a, dg, du) = with_elements([&g, &u, dy, &down.0], |[g, u, dy, wd]: [&[T]; 4]| {
            let mut dg = new_product(
                Matrix::new(dy, rows, hidden, hidden),
                Matrix::new(wd, hidden, inner, inner),
            );
            let [mut a, mut du] = [vec![T::default(); dg.len()], vec![T::default(); dg.len()]];
            let parts = a
                .par_chunks_mut(PARALLEL)
                .zip(du.par_chunks_mut(PARALLEL))
                .zip(dg.par_chunks_mut(PARALLEL));
            parts.enumerate().for_each(|(i, ((a, du), dg))| {
                vectorised(
                    #[inline(always)]
                    || {
                        let (g, u) =
                            (&g[i * PARALLEL..][..dg.len()], &u[i * PARALLEL..][..dg.len()]);
                        let outputs = a.iter_mut().zip(du.iter_mut()).zip(dg.iter_mut());
                        for ((((a, du), dg), g), u) in outputs.zip(g).zip(u) {
                            let (value, slope) = self.f.value_and_slope(*g);
                            *a = value * *u;
                            *du = *dg * value;
                            *dg = *dg * *u * slope;
                        }
                    },
                );
            });
            let tensor = |values| Tensor::from_vec(values, (rows, inner), x.device());
            Ok((tensor(a)?, tensor(dg)?, tensor(du)?))
        })?;
        for ((_, gradient), (dy, x)) in [(down, (dy, &a)), (gate, (&dg, x)), (up, (&du, x))] {
            if let Some(gradient) = gradient {
                gradient.add_product(dy, x)?;
            }
        }
        let dx = with_elements([&dg, &du, &gate.0, &up.0], |[dg, du, wg, wu]: [&[T]; 4]| {
            let part =
                |d, w| (Matrix::new(d, rows, inner, inner), Matrix::new(w, inner, hidden, hidden));
            let ((dg, wg), (du, wu)) = (part(dg, wg), part(du, wu));
            let mut dx = new_product(dg, wg);
            product(du, wu, T::one(), (&mut dx, hidden), Into::Add, true);
            Ok(dx)
        })?;
        Tensor::from_vec(dx, (rows, hidden), x.device())
    }
}

impl CustomOp1 for Mlp {
    fn name(&self) -> &'static str {
        "mlp"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let dims = xl.shape().dims2()?;
        with_real!(x, T => Ok((T::to_cpu_storage_owned(self.forward::<T>(elements(x, xl)?, dims)?), xl.shape().clone())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (x, dy) = (x.contiguous()?, dy.contiguous()?);
        Ok(Some(match x.dtype() {
            DType::F64 => self.backward::<f64>(&x, &dy)?,
            _ => self.backward::<f32>(&x, &dy)?,
        }))
    }
}

/// Returns the MLP of `x` (rows x hidden) on the CPU: gate and up are inner x hidden, down is
/// hidden x inner.
///
/// # Errors
/// Shapes or dtypes that do not match, another device, or tracked weights.
pub fn mlp(x: &Tensor, [gate, up, down]: [Weight<'_>; 3], f: Activation) -> Result<Tensor> {
    let ((_, hidden), (inner, _)) = (x.dims2()?, gate.0.dims2()?);
    let all = [gate, up, down];
    let fits = gate.0.dims() == [inner, hidden]
        && up.0.dims() == [inner, hidden]
        && down.0.dims() == [hidden, inner];
    if !fits || !is_fused(x) || all.iter().any(|(w, _)| w.dtype() != x.dtype() || w.track_op()) {
        candle_core::bail!(
            "mlp: {:?} does not fit {:?} and {:?}",
            x.dims(),
            gate.0.dims(),
            down.0.dims()
        );
    }
    let weights = all.map(|(w, gradient)| (w.clone(), gradient.cloned()));
    x.contiguous()?.apply_op1(Mlp { weights, f, inner: Mutex::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};
    use crate::ops::{gated, linear, linear_into};

    #[test]
    fn outputs_and_gradients_equal_those_of_separate_operations() {
        let [x, gate, up, down] =
            [random(&[5, 4], 1), random(&[7, 4], 2), random(&[7, 4], 3), random(&[4, 7], 4)];
        if !is_fused(&x) {
            return;
        }
        for f in [Activation::Silu, Activation::GeluTanh] {
            let sums = [(); 6].map(|()| Gradient::default());
            let run = |fused: bool, x: &Tensor| {
                if fused {
                    mlp(
                        x,
                        [(&gate, Some(&sums[0])), (&up, Some(&sums[1])), (&down, Some(&sums[2]))],
                        f,
                    )
                    .unwrap()
                } else {
                    let (g, u) = (
                        linear_into(x, &gate, &sums[3]).unwrap(),
                        linear_into(x, &up, &sums[4]).unwrap(),
                    );
                    linear_into(&gated(&g, &u, f).unwrap(), &down, &sums[5]).unwrap()
                }
            };
            let [fused, parts] = [true, false].map(|fused| {
                let x = candle_core::Var::from_tensor(&x).unwrap();
                let y = run(fused, x.as_tensor());
                let grads =
                    (&y * random(&[5, 4], 9)).unwrap().sum_all().unwrap().backward().unwrap();
                (y, grads.get(x.as_tensor()).unwrap().clone())
            });
            agrees(&fused.0, &parts.0);
            agrees(&fused.1, &parts.1);
            for i in 0..3 {
                agrees(&sums[i].total().unwrap(), &sums[i + 3].total().unwrap());
            }
            let plain = |x: &Tensor| mlp(x, [(&gate, None), (&up, None), (&down, None)], f);
            differentiates(std::slice::from_ref(&x), |v| plain(&v[0]));
            agrees(
                &plain(&x).unwrap(),
                &linear(
                    &gated(&linear(&x, &gate).unwrap(), &linear(&x, &up).unwrap(), f).unwrap(),
                    &down,
                )
                .unwrap(),
            );
            assert!(mlp(&down, [(&gate, None), (&up, None), (&down, None)], f).is_err());
        }
    }
}
