//! Losses between a student's logits `z` and a teacher's `t`, summed over rows; softmax at
//! temperature T.
//!
//! * KL: `sum p_t (log p_t - log p_z)`, gradient `(p_z - p_t) / T`
//! * entropy: `-sum p_z log p_z`, gradient `-p_z (log p_z + H) / T`
//! * squared error: the mean over the vocabulary of `(z - t)^2`

use candle_core::{D, DType, Result, Tensor, WithDType};

#[cfg(feature = "cuda")]
use super::kernels::on_cuda::Loss;
use super::row_loss::{RowLoss, log_softmax, log_sum_exp, row_loss};
use super::{Real, sum_of};

#[derive(Clone)]
struct Kl {
    teacher: Tensor,
    temperature: f64,
}

impl RowLoss for Kl {
    const NAME: &'static str = "kl_divergence";

    fn teacher(&self) -> Option<&Tensor> {
        Some(&self.teacher)
    }

    #[inline(always)]
    fn row<T: Real>(&self, _: usize, z: &[T], t: &[T], dz: Option<&mut [T]>) -> T {
        let temperature = <T as WithDType>::from_f64(self.temperature);
        let (student, teacher) = (log_sum_exp(z, temperature), log_sum_exp(t, temperature));
        let scale = temperature.recip();
        if let Some(dz) = dz {
            for ((dz, z), t) in dz.iter_mut().zip(z).zip(t) {
                let (p, q) = ((*t * scale - teacher).exp_fast(), (*z * scale - student).exp_fast());
                *dz = (q - p) * scale;
            }
        }
        sum_of([z, t], |[z, t]| {
            let log_p = t * scale - teacher;
            log_p.exp_fast() * (log_p - (z * scale - student))
        })
    }

    #[cfg(feature = "cuda")]
    fn kernel(&self, _: &candle_core::Device) -> Result<Loss<Tensor>> {
        Ok(Loss::Kl { teacher: self.teacher.clone(), temperature: self.temperature })
    }

    fn composed(&self, z: &Tensor) -> Result<Tensor> {
        let (log_p, log_q) =
            (log_softmax(&self.teacher, self.temperature)?, log_softmax(z, self.temperature)?);
        (log_p.exp()? * (log_p - log_q)?)?.sum_all()
    }
}

#[derive(Clone)]
struct Entropy {
    temperature: f64,
}

impl RowLoss for Entropy {
    const NAME: &'static str = "entropy";

    #[inline(always)]
    fn row<T: Real>(&self, _: usize, z: &[T], _: &[T], dz: Option<&mut [T]>) -> T {
        let temperature = <T as WithDType>::from_f64(self.temperature);
        let total = log_sum_exp(z, temperature);
        let log_p = |z: T| z / temperature - total;
        let entropy = -sum_of([z], |[z]| log_p(z).exp_fast() * log_p(z));
        if let Some(dz) = dz {
            for (dz, z) in dz.iter_mut().zip(z) {
                *dz = -log_p(*z).exp_fast() * (log_p(*z) + entropy) / temperature;
            }
        }
        entropy
    }

    #[cfg(feature = "cuda")]
    fn kernel(&self, _: &candle_core::Device) -> Result<Loss<Tensor>> {
        Ok(Loss::Entropy { temperature: self.temperature })
    }

    fn composed(&self, z: &Tensor) -> Result<Tensor> {
        let log_p = log_softmax(z, self.temperature)?;
        (log_p.exp()? * log_p)?.sum_all()?.neg()
    }
}

/// Returns `sum over rows KL(softmax(teacher / T) || softmax(z / T))`, without the factor T^2. `z`
/// and `teacher` are rows x width, of the same dtype; the teacher gets no gradient.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let merge = Tensor::new(&[[0f32, 0.0]], &Device::Cpu)?;
/// let teacher = Tensor::new(&[[3f32.ln(), 0.0]], &Device::Cpu)?;
/// let kl: f32 = dam_prelude::ops::kl_divergence(&merge, &teacher, 1.0)?.to_scalar()?;
/// assert!((kl - 0.13081).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Shapes or dtypes that differ.
pub fn kl_divergence(z: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    row_loss(z, Kl { teacher: teacher.detach(), temperature })
}

/// Returns the entropy of `softmax(z / T)` in nats, summed over rows, without the factor T^2.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let z = Tensor::new(&[[0f32, 0.0]], &Device::Cpu)?;
/// let entropy: f32 = dam_prelude::ops::entropy(&z, 2.0)?.to_scalar()?;
/// assert!((entropy - 2f32.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Logits that are not rows x width.
pub fn entropy(z: &Tensor, temperature: f64) -> Result<Tensor> {
    row_loss(z, Entropy { temperature })
}

/// Returns the mean over the vocabulary of `(z - teacher)^2`, summed over rows. Half precision is
/// computed in f32, like the other losses: a sum over a vocabulary would lose its digits.
///
/// # Errors
/// Shapes that differ.
pub fn squared_error(z: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let wide = if z.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let difference = (z.to_dtype(wide)? - teacher.detach().to_dtype(wide)?)?;
    difference.sqr()?.mean(D::Minus1)?.sum_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random, values};

    #[test]
    fn kl_agrees_with_its_composition_and_finite_differences() {
        let (z, teacher) = (random(&[4, 9], 1), random(&[4, 9], 2));
        let composed = Kl { teacher: teacher.clone(), temperature: 2.0 }.composed(&z).unwrap();
        agrees(&kl_divergence(&z, &teacher, 2.0).unwrap(), &composed);
        differentiates(&[z], |v| kl_divergence(&v[0], &teacher, 2.0));
    }

    #[test]
    fn entropy_agrees_with_its_composition_and_finite_differences() {
        let z = random(&[4, 9], 1);
        agrees(&entropy(&z, 2.0).unwrap(), &Entropy { temperature: 2.0 }.composed(&z).unwrap());
        differentiates(&[z], |v| entropy(&v[0], 2.0));
    }

    #[test]
    fn squared_error_passes_finite_differences() {
        let teacher = random(&[4, 9], 2);
        differentiates(&[random(&[4, 9], 1)], |v| squared_error(&v[0], &teacher));
    }

    #[test]
    fn squared_error_of_bf16_keeps_the_digits_of_its_sum() {
        let half = |seed| random(&[30, 500], seed).to_dtype(DType::BF16).unwrap();
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let value = |loss: Tensor| values(&loss)[0];
        let (z, teacher) = (half(1), half(2));
        let found = value(squared_error(&z, &teacher).unwrap());
        let exact = value(squared_error(&wide(&z), &wide(&teacher)).unwrap());
        assert!((found - exact).abs() < 1e-5 * exact, "{found} and {exact}");
    }
}
