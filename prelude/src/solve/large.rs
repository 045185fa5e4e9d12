//! Column systems that are too large to factorise: conjugate gradients on the matrix.
//!
//! The blocks `H_ab = (V_a^T V_b) o G` cost one product of matrices each; with them, a product with
//! the system only reads them. Without them it would multiply whole weights by `G` every time.

use candle_core::{DType, Device, Tensor};
use nalgebra::DMatrix;

use super::basis;
use super::columns::{System, values};
use super::conjugate::{Stop, conjugate};
use crate::error::Result;

/// The maximum bytes of all blocks, in f32.
const MOST_BYTES: usize = 3 << 30;

/// Products are cheap here, so the system is solved to the precision of f32.
const STOP: Stop = Stop { tolerance: 1e-5, products: 300, gain: 1e-9 };

/// Returns the elements of the blocks of `n` sources.
pub(super) fn elements(n: usize, columns: usize) -> usize {
    n * (n + 1) / 2 * columns * columns
}

/// Whether the blocks of `n` sources may be held in memory.
pub(super) fn fits(n: usize, columns: usize) -> bool {
    elements(n, columns) * size_of::<f32>() <= MOST_BYTES
}

/// Returns the scales, sources x columns.
///
/// # Errors
/// Out of memory on the device, or [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn solve(system: &System<'_>) -> Result<Vec<f64>> {
    let n = system.sources.len();
    let right = system.right()?;
    let d = right.len() / n;
    let mut pairs: Vec<(usize, usize, Tensor)> = Vec::new();
    // One n x n matrix per column.
    let mut cells = vec![DMatrix::<f64>::zeros(n, n); d];
    system.for_pairs(|a, b, pair| {
        let places: Vec<u32> = (0..d as u32).map(|j| j * (d as u32 + 1)).collect();
        let places = Tensor::from_vec(places, d, pair.device())?;
        let diagonal = values(&pair.flatten_all()?.index_select(&places, 0)?)?;
        for ((cell, value), penalty) in cells.iter_mut().zip(diagonal).zip(system.penalty(a, b)) {
            cell[(a, b)] = value + penalty;
            cell[(b, a)] = value + penalty;
        }
        pairs.push((a, b, pair));
        Ok(())
    })?;
    let inverses: Vec<DMatrix<f64>> = cells.into_iter().map(inverse).collect();
    let penalties: Vec<Vec<f64>> =
        pairs.iter().map(|(a, b, _)| system.penalty(*a, *b).collect()).collect();
    let times = |x: &Tensor| -> Result<Tensor> {
        let x: Vec<f64> = x.to_vec1()?;
        let mut y = vec![0.0; n * d];
        let mut add = |to: usize, matrix: &Tensor, from: usize, penalty: &[f64]| -> Result<()> {
            let own = &x[from * d..][..d];
            let vector = Tensor::from_slice(own, (d, 1), &Device::Cpu)?.to_dtype(matrix.dtype())?;
            let product = values(&matrix.matmul(&vector.to_device(matrix.device())?)?)?;
            for (((y, product), x), penalty) in
                y[to * d..][..d].iter_mut().zip(product).zip(own).zip(penalty)
            {
                *y += product + penalty * x;
            }
            Ok(())
        };
        for ((a, b, pair), penalty) in pairs.iter().zip(&penalties) {
            add(*a, pair, *b, penalty)?;
            if a != b {
                add(*b, &pair.t()?, *a, penalty)?;
            }
        }
        Ok(Tensor::from_vec(y, n * d, &Device::Cpu)?)
    };
    let divide = |x: &Tensor| -> Result<Tensor> {
        let x: Vec<f64> = x.to_vec1()?;
        let mut z = vec![0.0; n * d];
        for (j, inverse) in inverses.iter().enumerate() {
            for a in 0..n {
                z[a * d + j] = (0..n).map(|b| inverse[(a, b)] * x[b * d + j]).sum();
            }
        }
        Ok(Tensor::from_vec(z, n * d, &Device::Cpu)?)
    };
    let right = Tensor::from_vec(right, n * d, &Device::Cpu)?;
    let x = conjugate(&right, STOP, times, divide)?.reshape((n, 1, d))?;
    let scales = (basis::times(&basis::inverse(n), &x, false)? + 1.0 / n as f64)?;
    values(&scales.to_dtype(DType::F64)?)
}

/// Returns the inverse of a small symmetric matrix. Only the speed of convergence depends on it.
fn inverse(mut matrix: DMatrix<f64>) -> DMatrix<f64> {
    let n = matrix.nrows();
    let trace = matrix.trace().max(f64::MIN_POSITIVE);
    (0..n).for_each(|a| matrix[(a, a)] += 1e-9 * trace);
    matrix.try_inverse().unwrap_or_else(|| DMatrix::identity(n, n))
}
