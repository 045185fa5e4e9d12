//! The gate of an MLP: `y = f(g) * u` (arXiv 2002.05202), `dg = dy * u * f'(g)`, `du = dy * f(g)`.
//!
//! * silu: `f = g s` with `s = sigmoid(g)`, `f' = s (1 + g (1 - s))`
//! * gelu: `f = g s` with `s = sigmoid(2 a)`, `a = sqrt(2 / pi) (g + 0.044715 g^3)` (arXiv
//!   1606.08415, with `1 + tanh(a) = 2 sigmoid(2 a)`), `f' = s + 2 g s (1 - s) a'`

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType};

use super::kernels::has_kernels;
#[cfg(feature = "cuda")]
use super::kernels::on_cuda;
use super::{Real, elements, for_pieces, for_rows, is_fused, with_elements, with_real};
use crate::checkpoint::Activation;

struct Gated(Activation);

impl Activation {
    /// Returns `f(g)` and `f'(g)`.
    #[inline(always)]
    pub(super) fn value_and_slope<T: Real>(self, g: T) -> (T, T) {
        match self {
            Activation::Silu => {
                let s = sigmoid(g);
                (g * s, s * (T::one() + g * (T::one() - s)))
            }
            Activation::GeluTanh => {
                let real = |x: f64| <T as WithDType>::from_f64(x);
                let (scale, cubic) = (real((8.0 / std::f64::consts::PI).sqrt()), real(0.044_715));
                let s = sigmoid(scale * (g + cubic * g * g * g));
                (g * s, s + g * s * (T::one() - s) * scale * (T::one() + real(3.0) * cubic * g * g))
            }
        }
    }
}

/// Elements per row of work.
const WIDTH: usize = 256;

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    (T::one() + (-x).exp_fast()).recip()
}

/// Computes `f(g) * u` for every element.
pub(super) fn gate<T: Real>(f: Activation, g: &[T], u: &[T]) -> Vec<T> {
    let mut y = vec![T::default(); g.len()];
    for_rows(
        &mut y,
        WIDTH,
        #[inline(always)]
        |row, y| {
            for ((y, g), u) in y.iter_mut().zip(&g[row * WIDTH..]).zip(&u[row * WIDTH..]) {
                *y = f.value_and_slope(*g).0 * *u;
            }
        },
    );
    y
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        gl: &Layout,
        u: &CpuStorage,
        ul: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(g, T => {
            let (g, u) = (elements::<T>(g, gl)?, elements::<T>(u, ul)?);
            Ok((T::to_cpu_storage_owned(gate(self.0, g, u)), gl.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        g: &CudaStorage,
        gl: &Layout,
        u: &CudaStorage,
        ul: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        on_cuda::gated((g, gl), (u, ul), self.0)
    }

    fn bwd(
        &self,
        g: &Tensor,
        u: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if g.device().is_cuda() {
            return on_cuda::gated_backward(g, u, dy, self.0);
        }
        match g.dtype() {
            DType::F64 => backward::<f64>(self.0, g, u, dy),
            _ => backward::<f32>(self.0, g, u, dy),
        }
    }
}

fn backward<T: Real>(
    f: Activation,
    g: &Tensor,
    u: &Tensor,
    dy: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    with_elements([g, u, dy], |[gs, us, dys]: [&[T]; 3]| {
        let (mut dg, mut du) = (vec![T::default(); gs.len()], vec![T::default(); gs.len()]);
        for_pieces(
            &mut dg,
            &mut du,
            #[inline(always)]
            |at, dg, du| {
                for ((((dg, du), g), u), dy) in
                    dg.iter_mut().zip(du).zip(&gs[at..]).zip(&us[at..]).zip(&dys[at..])
                {
                    let (value, slope) = f.value_and_slope(*g);
                    *dg = *dy * *u * slope;
                    *du = *dy * value;
                }
            },
        );
        Ok((
            Some(Tensor::from_vec(dg, g.shape(), g.device())?),
            Some(Tensor::from_vec(du, u.shape(), u.device())?),
        ))
    })
}

/// Returns `f(gate) * up`, elementwise over equal shapes.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # use dam_prelude::checkpoint::Activation;
/// # fn main() -> Result<()> {
/// let gate = Tensor::new(&[0f64, 1.0], &Device::Cpu)?;
/// let up = Tensor::new(&[5f64, 2.0], &Device::Cpu)?;
/// let y: Vec<f64> = dam_prelude::ops::gated(&gate, &up, Activation::Silu)?.to_vec1()?;
/// assert!(y[0] == 0.0 && (y[1] - 1.46212).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Shapes that differ.
pub fn gated(gate: &Tensor, up: &Tensor, f: Activation) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("gated: {:?} and {:?} differ", gate.dims(), up.dims());
    }
    if is_fused(gate) || has_kernels(&[gate, up]) {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, Gated(f));
    }
    composed(gate, up, f)
}

fn composed(gate: &Tensor, up: &Tensor, f: Activation) -> Result<Tensor> {
    match f {
        Activation::Silu => gate.silu()? * up,
        // The slope of candle's own is only accurate to six digits.
        Activation::GeluTanh => {
            const ROOT: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
            let inner = (((gate.sqr()? * 0.044_715)? + 1.0)? * gate)?;
            let share = ((inner * ROOT)?.tanh()? + 1.0)?;
            ((gate * 0.5)? * share)? * up
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        let (gate, up) = (random(&[3, 7], 1), random(&[3, 7], 2));
        for f in [Activation::Silu, Activation::GeluTanh] {
            agrees(&gated(&gate, &up, f).unwrap(), &composed(&gate, &up, f).unwrap());
            differentiates(&[gate.clone(), up.clone()], |v| gated(&v[0], &v[1], f));
        }
    }
}
