//! The best weight without any scheme: `D (G + ridge) = M`. With the inputs of every source, this
//! is RegMean (arXiv 2212.09849).
//!
//! It shows what a scheme cannot express, on these examples and with this ridge. The ridge follows
//! the same rule as that of schemes: relative to the mean over elements of the second derivative,
//! which is the mean diagonal of `G`.

use candle_core::{DType, Device, Tensor};

use super::cholesky::{Cholesky, MOST, not_definite};
use super::conjugate::{Stop, conjugate};
use super::quadratic::{Gram, Quadratic};
use crate::error::Result;

/// Solves several weights with the same inputs.
pub(super) struct Unrestricted {
    gram: Gram,
    /// The ridge, absolute.
    ridge: f64,
    factor: Option<Cholesky>,
}

/// When to stop on systems that are not factorised.
const STOP: Stop = Stop { tolerance: 1e-4, products: 200, gain: 1e-4 };

impl Unrestricted {
    /// Prepares systems with `gram`; `name` is for messages.
    ///
    /// # Errors
    /// The system is not positive definite.
    pub fn new(gram: &Gram, ridge: f64, name: &str) -> Result<Self> {
        let diagonal = gram.diagonal()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let ridge = ridge * diagonal.mean_all()?.to_scalar::<f64>()?;
        let factor = match gram {
            Gram::Dense(g) if g.dim(0)? <= MOST => {
                let size = g.dim(0)?;
                let mut matrix: Vec<f64> =
                    g.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
                (0..size).for_each(|i| matrix[i * (size + 1)] += ridge);
                Some(Cholesky::new(matrix, size).ok_or_else(|| not_definite(name))?)
            }
            _ => None,
        };
        Ok(Self { gram: gram.clone(), ridge, factor })
    }

    /// Whether the solution for `gram` takes too long for a report alone.
    pub fn is_slow(gram: &Gram) -> Result<bool> {
        Ok(matches!(gram, Gram::Dense(g) if g.dim(0)? > MOST))
    }

    /// Returns the moment of the inputs.
    pub fn gram(&self) -> &Gram {
        &self.gram
    }

    /// Returns the best deviation from the average.
    ///
    /// # Errors
    /// Out of memory on the device, or [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn solve(&self, quadratic: &Quadratic) -> Result<Tensor> {
        let right = &quadratic.right;
        let diagonal = (self.gram.diagonal()? + self.ridge)?;
        let divide = |x: &Tensor| Ok(x.broadcast_div(&diagonal)?);
        match (&self.factor, &self.gram) {
            (Some(factor), _) => {
                let mut rows: Vec<f64> = right
                    .to_device(&Device::Cpu)?
                    .to_dtype(DType::F64)?
                    .flatten_all()?
                    .to_vec1()?;
                factor.solve(&mut rows);
                let solved = Tensor::from_vec(rows, right.dims(), &Device::Cpu)?;
                Ok(solved.to_dtype(right.dtype())?.to_device(right.device())?)
            }
            (None, Gram::Dense(_)) => {
                let times = |x: &Tensor| Ok((self.gram.times(x)? + (x * self.ridge)?)?);
                conjugate(right, STOP, times, divide)
            }
            (None, _) => divide(right),
        }
    }
}
