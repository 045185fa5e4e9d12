//! The gate of a llama MLP: `y = silu(g) * u`, `silu(g) = g * sigmoid(g)` (arXiv 2002.05202).
//!
//! With `s = sigmoid(g)`: `dg = dy * u * s * (1 + g * (1 - s))`, `du = dy * g * s`.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType};

use super::{Real, elements, for_pieces, for_rows, is_fused, with_elements, with_real};

struct SwiGlu;

/// Elements of one row of work.
const WIDTH: usize = 256;

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    (T::one() + (-x).exp_fast()).recip()
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, g: &CpuStorage, gl: &Layout, u: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(g, T => {
            let (g, u) = (elements::<T>(g, gl)?, elements::<T>(u, ul)?);
            let mut y = vec![T::default(); g.len()];
            for_rows(&mut y, WIDTH, |row, y| {
                for ((y, g), u) in y.iter_mut().zip(&g[row * WIDTH..]).zip(&u[row * WIDTH..]) {
                    *y = *g * sigmoid(*g) * *u;
                }
            });
            Ok((T::to_cpu_storage_owned(y), gl.shape().clone()))
        })
    }

    fn bwd(&self, g: &Tensor, u: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        match g.dtype() {
            DType::F64 => backward::<f64>(g, u, dy),
            _ => backward::<f32>(g, u, dy),
        }
    }
}

fn backward<T: Real>(g: &Tensor, u: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    with_elements([g, u, dy], |[gs, us, dys]: [&[T]; 3]| {
        let (mut dg, mut du) = (vec![T::default(); gs.len()], vec![T::default(); gs.len()]);
        for_pieces(&mut dg, &mut du, |at, dg, du| {
            for ((((dg, du), g), u), dy) in dg.iter_mut().zip(du).zip(&gs[at..]).zip(&us[at..]).zip(&dys[at..]) {
                let s = sigmoid(*g);
                *dg = *dy * *u * s * (T::one() + *g * (T::one() - s));
                *du = *dy * *g * s;
            }
        });
        Ok((Some(Tensor::from_vec(dg, g.shape(), g.device())?), Some(Tensor::from_vec(du, u.shape(), u.device())?)))
    })
}

/// `silu(gate) * up`, elementwise over equal shapes.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let gate = Tensor::new(&[0f64, 1.0], &Device::Cpu)?;
/// let up = Tensor::new(&[5f64, 2.0], &Device::Cpu)?;
/// let y: Vec<f64> = dam_prelude::ops::swiglu(&gate, &up)?.to_vec1()?;
/// assert!(y[0] == 0.0 && (y[1] - 1.46212).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Shapes that differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("swiglu: {:?} and {:?} differ", gate.dims(), up.dims());
    }
    if is_fused(gate) {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu);
    }
    composed(gate, up)
}

fn composed(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        let (gate, up) = (random(&[3, 7], 1), random(&[3, 7], 2));
        agrees(&swiglu(&gate, &up).unwrap(), &composed(&gate, &up).unwrap());
        differentiates(&[gate, up], |v| swiglu(&v[0], &v[1]));
    }
}
