//! Next-token loss: `-log softmax(z)[target]`, summed over rows; gradient `softmax(z) -
//! onehot(target)`.

use candle_core::{Result, Tensor};

use super::Real;
#[cfg(feature = "cuda")]
use super::kernels::on_cuda::Loss;
use super::row_loss::{RowLoss, log_softmax, log_sum_exp, row_loss};

#[derive(Clone)]
struct CrossEntropy {
    targets: Vec<u32>,
}

impl RowLoss for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    #[inline(always)]
    fn row<T: Real>(&self, index: usize, z: &[T], _: &[T], dz: Option<&mut [T]>) -> T {
        let (target, total) = (self.targets[index] as usize, log_sum_exp(z, T::one()));
        if let Some(dz) = dz {
            for (dz, z) in dz.iter_mut().zip(z) {
                *dz = (*z - total).exp_fast();
            }
            dz[target] -= T::one();
        }
        total - z[target]
    }

    #[cfg(feature = "cuda")]
    fn kernel(&self, device: &candle_core::Device) -> Result<Loss<Tensor>> {
        Ok(Loss::CrossEntropy {
            targets: Tensor::from_slice(&self.targets, self.targets.len(), device)?,
        })
    }

    fn composed(&self, z: &Tensor) -> Result<Tensor> {
        let targets = Tensor::from_slice(&self.targets, (self.targets.len(), 1), z.device())?;
        log_softmax(z, 1.0)?.gather(&targets, 1)?.sum_all()?.neg()
    }
}

/// Returns the sum over rows of the cross entropy in nats between `z` (rows x vocabulary) and
/// `targets` (one per row).
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let z = Tensor::new(&[[0f32, 3f32.ln()]], &Device::Cpu)?;
/// let loss: f32 = dam_prelude::ops::cross_entropy(&z, &[0])?.to_scalar()?;
/// assert!((loss - 4f32.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A target outside the vocabulary, or a number of targets that differs from the number of rows.
pub fn cross_entropy(z: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (rows, vocabulary) = z.dims2()?;
    if rows != targets.len() || targets.iter().any(|t| *t as usize >= vocabulary) {
        candle_core::bail!(
            "cross_entropy: {} targets do not fit logits of {:?}",
            targets.len(),
            z.dims()
        );
    }
    row_loss(z, CrossEntropy { targets: targets.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        let (z, targets) = (random(&[3, 5], 1), [4, 0, 2]);
        agrees(
            &cross_entropy(&z, &targets).unwrap(),
            &CrossEntropy { targets: targets.to_vec() }.composed(&z).unwrap(),
        );
        differentiates(&[z], |v| cross_entropy(&v[0], &targets));
    }
}
