//! Cholesky factorisation in f64, in blocks: `A = L L^T`.
//!
//! Most of the work are products of blocks, which run at the speed of the matrix product.

use rayon::prelude::*;

use crate::error::Error;
use crate::ops::{Into, Matrix, product, sum_of};

/// The maximum number of unknowns of a system that is factorised: 134 MB in f64, and about a second
/// on two cores. Beyond it, memory grows with the square and time with the cube; conjugate
/// gradients need neither.
pub(super) const MOST: usize = 4096;

/// The width of a block of columns.
const BLOCK: usize = 64;

/// The factor of a positive definite matrix: the lower triangle of `size` x `size`, row by row.
pub(super) struct Cholesky {
    factor: Vec<f64>,
    size: usize,
}

impl Cholesky {
    /// Factorises `matrix`, of which only the lower triangle is read; `None` if it is not positive
    /// definite.
    pub fn new(mut matrix: Vec<f64>, size: usize) -> Option<Self> {
        for start in (0..size).step_by(BLOCK) {
            let (width, end) = (BLOCK.min(size - start), size.min(start + BLOCK));
            let (above, below) = matrix.split_at_mut(end * size);
            diagonal(&mut above[start * size + start..], size, width)?;
            let corner = &above[start * size + start..];
            below.par_chunks_mut(size).for_each(|row| {
                divide(&mut row[start..end], corner, size);
            });
            // The rows below this block, side by side.
            let panel: Vec<f64> =
                below.chunks(size).flat_map(|row| row[start..end].iter().copied()).collect();
            let rows = size - end;
            for first in (0..rows).step_by(4 * BLOCK) {
                let columns = (4 * BLOCK).min(rows - first);
                let left = Matrix::new(&panel[first * width..], rows - first, width, width);
                let right = Matrix::new(&panel[first * width..], columns, width, width);
                let out = &mut below[first * size + end + first..];
                product(left, right.t(), -1.0, (out, size), Into::Add, true);
            }
        }
        Some(Self { factor: matrix, size })
    }

    /// Replaces every row `b` of `rows` with the solution `x` of `A x = b`.
    pub fn solve(&self, rows: &mut [f64]) {
        let (n, count) = (self.size, rows.len() / self.size.max(1));
        let starts: Vec<usize> = (0..n).step_by(BLOCK).collect();
        let mut block = Vec::new();
        let mut step = |rows: &mut [f64], start: usize, forward: bool| {
            let (width, end) = (BLOCK.min(n - start), n.min(start + BLOCK));
            block.clear();
            rows.chunks(n).for_each(|row| block.extend_from_slice(&row[start..end]));
            // Subtracts what is known already.
            let (from, known) = if forward { (0, start) } else { (end, n - end) };
            if known > 0 {
                let done = Matrix::new(&rows[from..], count, known, n);
                let factor = if forward {
                    Matrix::new(&self.factor[start * n..], width, known, n).t()
                } else {
                    Matrix::new(&self.factor[end * n + start..], known, width, n)
                };
                product(done, factor, -1.0, (&mut block, width), Into::Add, true);
            }
            let corner = &self.factor[start * n + start..];
            rows.par_chunks_mut(n).zip(block.par_chunks(width)).for_each(|(row, block)| {
                row[start..end].copy_from_slice(block);
                if forward {
                    divide(&mut row[start..end], corner, n)
                } else {
                    divide_back(&mut row[start..end], corner, n)
                }
            });
        };
        starts.iter().for_each(|start| step(rows, *start, true));
        starts.iter().rev().for_each(|start| step(rows, *start, false));
    }
}

/// The error for the tensor `name`, whose objective is not finite.
pub(super) fn not_finite(name: &str) -> Error {
    Error::Refused {
        message: format!("the objective of `{name}` is not finite"),
        hint: "use a larger ridge, or check the data and the sources".into(),
    }
}

/// The error for the system of the tensor `name`, which has no unique solution.
pub(super) fn not_definite(name: &str) -> Error {
    Error::Refused {
        message: format!("the system of `{name}` is not positive definite"),
        hint: "use a larger ridge, or more examples".into(),
    }
}

/// Factorises one block on the diagonal, whose rows start `stride` apart.
fn diagonal(block: &mut [f64], stride: usize, width: usize) -> Option<()> {
    for i in 0..width {
        for j in 0..=i {
            let (a, b) = (&block[i * stride..][..j], &block[j * stride..][..j]);
            let left = block[i * stride + j] - sum_of([a, b], |[a, b]| a * b);
            if i != j {
                block[i * stride + j] = left / block[j * stride + j];
            } else if left > 0.0 && left.is_finite() {
                block[i * stride + i] = left.sqrt();
            } else {
                return None;
            }
        }
    }
    Some(())
}

/// Solves `L x = b` in place, for a block `L` whose rows start `stride` apart.
fn divide(b: &mut [f64], factor: &[f64], stride: usize) {
    for i in 0..b.len() {
        let row = &factor[i * stride..][..=i];
        b[i] = (b[i] - sum_of([&b[..i], &row[..i]], |[b, l]| b * l)) / row[i];
    }
}

/// Solves `L^T x = b` in place.
fn divide_back(b: &mut [f64], factor: &[f64], stride: usize) {
    for i in (0..b.len()).rev() {
        b[i] /= factor[i * stride + i];
        let (x, row) = (b[i], &factor[i * stride..][..i]);
        b[..i].iter_mut().zip(row).for_each(|(b, l)| *b -= l * x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, values};

    #[test]
    fn solutions_satisfy_the_system() {
        for n in [1, 2, 63, 64, 65, 200, 400] {
            let (a, b) = (values(&random(&[n, n], 1)), values(&random(&[3, n], 2)));
            let mut matrix = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..n {
                    let dot: f64 = (0..n).map(|k| a[i * n + k] * a[j * n + k]).sum();
                    matrix[i * n + j] = dot + if i == j { 0.5 } else { 0.0 };
                }
            }
            let mut x = b.clone();
            Cholesky::new(matrix.clone(), n).unwrap().solve(&mut x);
            for (x, b) in x.chunks(n).zip(b.chunks(n)) {
                for i in 0..n {
                    let found: f64 = (0..n).map(|k| matrix[i * n + k] * x[k]).sum();
                    assert!((found - b[i]).abs() < 1e-9 * n as f64, "{n}: {found} and {}", b[i]);
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factor() {
        assert!(Cholesky::new(vec![1.0, 0.0, 2.0, 1.0], 2).is_none());
        assert!(Cholesky::new(vec![0.0; 100 * 100], 100).is_none());
        assert!(Cholesky::new(vec![f64::NAN], 1).is_none());
    }
}
