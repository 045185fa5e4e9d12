//! Conjugate gradients with a preconditioner, for systems that are too large to factorise or known
//! only by their products.

use candle_core::Tensor;

use super::quadratic::dot;
use crate::error::Result;
use crate::interrupt;

/// When to stop.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// The norm of the residual relative to that of the right-hand side, in the preconditioner's
    /// measure.
    pub tolerance: f64,
    /// The maximum number of products.
    pub products: usize,
    /// What two products in a row gain at least, relative to all before.
    pub gain: f64,
}

/// Solves `A x = b` for a positive definite `A`, given by its product `times`, starting at 0;
/// `divide` applies the preconditioner, an approximate inverse.
///
/// # Errors
/// An error of a product, or [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn conjugate(
    b: &Tensor,
    stop: Stop,
    mut times: impl FnMut(&Tensor) -> Result<Tensor>,
    divide: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (mut x, mut residual) = (b.zeros_like()?, b.clone());
    let mut z = divide(&residual)?;
    let mut direction = z.clone();
    let mut size = dot(&residual, &z)?;
    let enough = size * stop.tolerance.powi(2);
    // By how much each step lowers `<x, A x> / 2 - <x, b>`.
    let (mut gained, mut last) = (0.0, f64::INFINITY);
    for _ in 0..stop.products {
        interrupt::check()?;
        if size <= enough || size == 0.0 {
            break;
        }
        let product = times(&direction)?;
        let curvature = dot(&direction, &product)?;
        // Rounding has used up the precision of the product.
        if curvature <= 0.0 || !curvature.is_finite() {
            break;
        }
        let step = size / curvature;
        let gain = 0.5 * step * size;
        if gain + last < stop.gain * gained {
            break;
        }
        (gained, last) = (gained + gain, gain);
        x = (x + (&direction * step)?)?;
        residual = (residual - (product * step)?)?;
        z = divide(&residual)?;
        let next = dot(&residual, &z)?;
        direction = (&z + (direction * (next / size))?)?;
        size = next;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, values};

    #[test]
    fn it_solves_a_positive_definite_system() {
        let a = random(&[30, 30], 1);
        let a = (a.matmul(&a.t().unwrap()).unwrap() + 0.1).unwrap();
        let b = random(&[1, 30], 2);
        let stop = Stop { tolerance: 1e-12, products: 300, gain: 0.0 };
        let x = conjugate(&b, stop, |x| Ok(x.matmul(&a)?), |x| Ok(x.clone())).unwrap();
        for (found, b) in values(&x.matmul(&a).unwrap()).into_iter().zip(values(&b)) {
            assert!((found - b).abs() < 1e-6, "{found} and {b}");
        }
        let none = b.zeros_like().unwrap();
        let zero = conjugate(&none, stop, |x| Ok(x.matmul(&a)?), |x| Ok(x.clone())).unwrap();
        assert_eq!(values(&zero), vec![0.0; 30]);
    }
}
