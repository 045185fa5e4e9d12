//! Soft cap: `y = c tanh(x / c)`, which limits values to between `-c` and `c`; `dx = dy (1 - (y /
//! c)^2)`.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType};

use super::{Real, elements, for_rows, is_fused, with_elements, with_real};

struct SoftCap(f64);

/// Elements per row of work.
const WIDTH: usize = 256;

impl CustomOp1 for SoftCap {
    fn name(&self) -> &'static str {
        "soft_cap"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(x, T => {
            let (x, cap) = (elements::<T>(x, xl)?, <T as WithDType>::from_f64(self.0));
            let mut y = vec![T::default(); x.len()];
            for_rows(&mut y, WIDTH, #[inline(always)] |row, y| {
                for (y, x) in y.iter_mut().zip(&x[row * WIDTH..]) {
                    *y = cap * (*x / cap).tanh_fast();
                }
            });
            Ok((T::to_cpu_storage_owned(y), xl.shape().clone()))
        })
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        match y.dtype() {
            DType::F64 => backward::<f64>(self.0, y, dy),
            _ => backward::<f32>(self.0, y, dy),
        }
    }
}

fn backward<T: Real>(cap: f64, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
    with_elements([y, dy], |[ys, dys]: [&[T]; 2]| {
        let cap = <T as WithDType>::from_f64(cap);
        let mut dx = vec![T::default(); ys.len()];
        for_rows(
            &mut dx,
            WIDTH,
            #[inline(always)]
            |row, dx| {
                for ((dx, y), dy) in dx.iter_mut().zip(&ys[row * WIDTH..]).zip(&dys[row * WIDTH..])
                {
                    let tanh = *y / cap;
                    *dx = *dy * (T::one() - tanh * tanh);
                }
            },
        );
        Ok(Some(Tensor::from_vec(dx, y.shape(), y.device())?))
    })
}

/// Returns `cap * tanh(x / cap)`, elementwise, for `cap` above 0.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let x = Tensor::new(&[0f64, 30.0, -3000.0], &Device::Cpu)?;
/// let y: Vec<f64> = dam_prelude::ops::soft_cap(&x, 30.0)?.to_vec1()?;
/// assert!(y[0] == 0.0 && (y[1] - 22.84782).abs() < 1e-5 && y[2] == -30.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Out of memory on the device.
pub fn soft_cap(x: &Tensor, cap: f64) -> Result<Tensor> {
    if is_fused(x) {
        return x.contiguous()?.apply_op1(SoftCap(cap));
    }
    composed(x, cap)
}

fn composed(x: &Tensor, cap: f64) -> Result<Tensor> {
    (x / cap)?.tanh()? * cap
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        let x = random(&[3, 300], 1);
        agrees(&soft_cap(&x, 0.7).unwrap(), &composed(&x, 0.7).unwrap());
        differentiates(&[x.narrow(1, 0, 7).unwrap().contiguous().unwrap()], |v| {
            soft_cap(&v[0], 0.7)
        });
    }
}
