//! The truncated singular value decomposition of a matrix that is computed piece by piece: the `r`
//! largest singular values `s` of `D` (rows x columns) with their vectors, `D ~ U diag(s) V^T`.
//!
//! Subspace iteration from a random start (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms
//! 4.4 and 5.1) with more vectors than requested; a matrix whose shorter side has no more vectors
//! than that is decomposed exactly. `D` is read a block of rows at a time, and held only if it is
//! small. The start is seeded, and the result does not depend on the number of threads. Singular
//! values below about `1e-6` of the largest are lost in its f32 precision. (`factor.rs` finds the
//! singular space exactly, in f64, which takes far longer than the least loss of a change needs.)

use nalgebra::{DMatrix, SymmetricEigen};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::product::{Into, Matrix, product};
use crate::error::{Error, Result};
use crate::interrupt;

/// A matrix computed on demand.
pub(crate) struct Made<'a> {
    /// Its name in messages.
    pub name: &'a str,
    pub rows: usize,
    pub columns: usize,
    /// Fills a slice with elements from an index on, in row-major order.
    pub fill: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

/// `left right`, the nearest matrix of its rank.
pub(crate) struct Truncated {
    pub rank: usize,
    /// `U diag(s)`: rows x rank.
    pub left: Vec<f32>,
    /// `V^T`: rank x columns.
    pub right: Vec<f32>,
    /// `s`, largest first.
    pub values: Vec<f64>,
    /// `|D|^2`, the sum of squares.
    pub whole: f64,
    /// `|D - left right|^2`, as it is in f32.
    pub lost: f64,
}

/// The maximum number of elements held in memory: 256 MB.
const HELD: usize = 1 << 26;

/// Elements computed at a time.
const BLOCK: usize = 1 << 22;

/// Elements computed per thread at a time.
const PIECE: usize = 1 << 13;

/// The maximum length of the shorter side for an exact decomposition.
const SMALL: usize = 256;

/// The number of power iterations.
const ITERATIONS: usize = 4;

/// Squared norms below this fraction of the largest do not count as directions.
const NEGLIGIBLE: f64 = 1e-14;

/// Computes the truncated decomposition of `matrix`, of rank `rank` or the matrix's own rank if
/// lower. Singular values up to `noise` count as zero.
///
/// # Errors
/// [`Error::Interrupted`], or values that are not finite.
pub(crate) fn truncated(matrix: &Made<'_>, rank: usize, noise: f64) -> Result<Truncated> {
    let Made { rows, columns, .. } = *matrix;
    let shorter = rows.min(columns);
    if shorter == 0 {
        return Ok(Truncated {
            rank: 0,
            left: Vec::new(),
            right: Vec::new(),
            values: Vec::new(),
            whole: 0.0,
            lost: 0.0,
        });
    }
    let rank = rank.min(shorter);
    let width = if shorter <= SMALL { shorter } else { shorter.min(rank + (rank / 2).max(16)) };
    let held = matrix.held();
    let blocks = |f: &mut dyn FnMut(usize, &[f32])| matrix.blocks(held.as_deref(), f);

    // The sum of squares, and D times random signs: rows x width.
    let mut whole = 0f64;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let start: Vec<f32> =
        (0..columns * width).map(|_| if random.next_u32() & 1 == 0 { 1.0 } else { -1.0 }).collect();
    let mut left = vec![0f32; rows * width];
    blocks(&mut |row, block| {
        whole += square(block);
        times(block, &start, (columns, width), &mut left[row * width..]);
    })?;
    if !whole.is_finite() {
        return Err(Error::BadTensor {
            tensor: matrix.name.into(),
            reason: "it has values that are not finite".into(),
        });
    }
    let (mut left_over, mut wide) = (if width == shorter { 1 } else { ITERATIONS }, width);
    let (basis, across) = loop {
        let basis = orthonormal(&left, rows, wide);
        wide = basis.len() / rows.max(1);
        // D^T Q: columns x width of Q.
        let mut across = vec![0f32; columns * wide];
        blocks(&mut |row, block| {
            let count = block.len() / columns;
            let part = Matrix::new(&basis[row * wide..(row + count) * wide], count, wide, wide);
            product(
                Matrix::new(block, count, columns, columns).t(),
                part,
                1.0,
                (&mut across[..], wide),
                Into::Add,
                true,
            );
        })?;
        if left_over == 0 || wide == 0 {
            break (basis, across);
        }
        left_over -= 1;
        let turned = orthonormal(&across, columns, wide);
        wide = turned.len() / columns.max(1);
        left = vec![0f32; rows * wide];
        blocks(&mut |row, block| times(block, &turned, (columns, wide), &mut left[row * wide..]))?;
    };
    let found = rotated(&basis, &across, (rows, columns), rank, noise);
    let mut lost = 0f64;
    let mut rest = vec![0f32; BLOCK.min(rows * columns).max(columns)];
    blocks(&mut |row, block| {
        let (count, rest, rank) = (block.len() / columns, &mut rest[..block.len()], found.rank);
        rest.copy_from_slice(block);
        if rank > 0 {
            let part =
                Matrix::new(&found.left[row * rank..(row + count) * rank], count, rank, rank);
            let right = Matrix::new(&found.right, rank, columns, columns);
            product(part, right, -1.0, (&mut *rest, columns), Into::Add, true);
        }
        lost += square(rest);
    })?;
    Ok(Truncated { whole, lost, ..found })
}

impl Made<'_> {
    /// Returns the whole matrix, if it is small.
    fn held(&self) -> Option<Vec<f32>> {
        let elements = self.rows * self.columns;
        (elements <= HELD).then(|| {
            let mut all = vec![0f32; elements];
            self.make(0, &mut all);
            all
        })
    }

    fn make(&self, start: usize, out: &mut [f32]) {
        out.par_chunks_mut(PIECE)
            .enumerate()
            .for_each(|(i, piece)| (self.fill)(start + i * PIECE, piece));
    }

    /// Calls `f` with the first row and the elements of each block of rows, in order.
    fn blocks(&self, held: Option<&[f32]>, f: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let count = (BLOCK / self.columns.max(1)).max(1);
        let mut buffer =
            vec![0f32; if held.is_some() { 0 } else { count.min(self.rows) * self.columns }];
        for row in (0..self.rows).step_by(count) {
            interrupt::check()?;
            let range = row * self.columns..(row + count).min(self.rows) * self.columns;
            match held {
                Some(all) => f(row, &all[range]),
                None => {
                    let block = &mut buffer[..range.len()];
                    self.make(range.start, block);
                    f(row, block);
                }
            }
        }
        Ok(())
    }
}

/// Returns the sum of squares.
fn square(values: &[f32]) -> f64 {
    let stretches: Vec<f64> = values
        .par_chunks(1 << 16)
        .map(|x| x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
        .collect();
    stretches.into_iter().sum()
}

/// Computes `block` (rows of `columns`) times `right` (columns x width) into the first rows of
/// `out`.
fn times(block: &[f32], right: &[f32], (columns, width): (usize, usize), out: &mut [f32]) {
    let count = block.len() / columns.max(1);
    let (block, right) =
        (Matrix::new(block, count, columns, columns), Matrix::new(right, columns, width, width));
    product(block, right, 1.0, (&mut out[..count * width], width), Into::Replace, true);
}

/// Returns `M^T M` of a matrix (rows x width), in f64.
fn gram(matrix: &[f32], rows: usize, width: usize) -> DMatrix<f64> {
    const ROWS: usize = 1 << 12;
    let mut sum = vec![0f64; width * width];
    for block in matrix.chunks(ROWS * width.max(1)) {
        let block: Vec<f64> = block.iter().map(|x| f64::from(*x)).collect();
        let block = Matrix::new(&block, block.len() / width.max(1), width, width);
        product(block.t(), block, 1.0, (&mut sum[..], width), Into::Add, true);
    }
    debug_assert_eq!(matrix.len(), rows * width);
    // Makes the matrix exactly symmetric, whatever the order of its sums.
    DMatrix::from_fn(width, width, |i, j| sum[i.min(j) * width + i.max(j)])
}

/// Returns the eigenvalues of `symmetric`, largest first, with their vectors as columns.
fn eigen(symmetric: DMatrix<f64>) -> (Vec<f64>, DMatrix<f64>) {
    // After an overflow, there are no directions.
    if symmetric.is_empty() || symmetric.iter().any(|x| !x.is_finite()) {
        return (Vec::new(), DMatrix::zeros(symmetric.nrows(), 0));
    }
    let found = SymmetricEigen::new(symmetric);
    let mut order: Vec<usize> = (0..found.eigenvalues.len()).collect();
    order.sort_by(|a, b| found.eigenvalues[*b].total_cmp(&found.eigenvalues[*a]));
    let vectors =
        DMatrix::from_fn(order.len(), order.len(), |i, j| found.eigenvectors[(i, order[j])]);
    (order.into_iter().map(|i| found.eigenvalues[i].max(0.0)).collect(), vectors)
}

/// Returns an orthonormal basis of the columns of `matrix` (rows x width): rows x number of
/// directions.
fn orthonormal(matrix: &[f32], rows: usize, width: usize) -> Vec<f32> {
    let mut basis = matrix.to_vec();
    let mut width = width;
    // The second pass removes the rounding errors of the first.
    for _ in 0..2 {
        let (values, vectors) = eigen(gram(&basis, rows, width));
        let most = values.first().copied().unwrap_or(0.0);
        let kept = values.iter().take_while(|value| **value > NEGLIGIBLE * most).count();
        let turn = DMatrix::from_fn(width, kept, |i, j| vectors[(i, j)] / values[j].sqrt());
        basis = turned(&basis, rows, &turn);
        width = kept;
    }
    basis
}

/// Returns `matrix` (rows x width) times `turn` (width x count).
fn turned(matrix: &[f32], rows: usize, turn: &DMatrix<f64>) -> Vec<f32> {
    let (width, count) = turn.shape();
    let flat: Vec<f64> = (0..width * count).map(|i| turn[(i / count, i % count)]).collect();
    let mut out = vec![0f32; rows * count];
    if count == 0 {
        return out;
    }
    out.par_chunks_mut(count << 8).zip(matrix.par_chunks(width << 8)).for_each(|(out, rows)| {
        let wide: Vec<f64> = rows.iter().map(|x| f64::from(*x)).collect();
        let mut made = vec![0f64; out.len()];
        let (rows, flat) = (
            Matrix::new(&wide, wide.len() / width, width, width),
            Matrix::new(&flat, width, count, count),
        );
        product(rows, flat, 1.0, (&mut made[..], count), Into::Replace, false);
        out.iter_mut().zip(made).for_each(|(out, x)| *out = x as f32);
    });
    out
}

/// Computes the decomposition from a basis `Q` of the column space (rows x width) and `D^T Q`
/// (columns x width).
fn rotated(
    basis: &[f32],
    across: &[f32],
    (rows, columns): (usize, usize),
    rank: usize,
    noise: f64,
) -> Truncated {
    let width = across.len() / columns.max(1);
    // D = Q Z^T; Z^T Z = E diag(s^2) E^T; then D = (Q E diag(s)) (Z E diag(1/s))^T.
    let (values, vectors) = eigen(gram(across, columns, width));
    let most = values.first().copied().unwrap_or(0.0);
    let least = (NEGLIGIBLE * most).max(noise * noise);
    let above = values.iter().take(rank).take_while(|value| **value > least).count();
    let rank = above.max(usize::from(most > 0.0).min(rank));
    let values: Vec<f64> = values[..rank].iter().map(|value| value.sqrt()).collect();
    let left =
        turned(basis, rows, &DMatrix::from_fn(width, rank, |i, j| vectors[(i, j)] * values[j]));
    let columnwise =
        turned(across, columns, &DMatrix::from_fn(width, rank, |i, j| vectors[(i, j)] / values[j]));
    let mut right = vec![0f32; rank * columns];
    right.par_chunks_mut(columns.max(1)).enumerate().for_each(|(r, row)| {
        row.iter_mut().enumerate().for_each(|(j, x)| *x = columnwise[j * rank + r]);
    });
    Truncated { rank, left, right, values, whole: 0.0, lost: 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `sum of values[i] u_i v_i^T` of random orthonormal vectors, row by row.
    fn matrix(rows: usize, columns: usize, values: &[f64]) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut vectors = |n: usize| {
            let of = |_, _| f64::from(random.next_u32()) / f64::from(u32::MAX) - 0.5;
            DMatrix::from_fn(n, values.len(), of).qr().q()
        };
        let (u, v) = (vectors(rows), vectors(columns));
        let scaled = DMatrix::from_fn(rows, values.len(), |i, j| u[(i, j)] * values[j]);
        (&scaled * v.transpose()).transpose().iter().map(|x| *x as f32).collect()
    }

    fn decomposed(matrix: &[f32], rows: usize, rank: usize) -> Truncated {
        let fill =
            |start: usize, out: &mut [f32]| out.copy_from_slice(&matrix[start..start + out.len()]);
        truncated(&Made { name: "w", rows, columns: matrix.len() / rows, fill: &fill }, rank, 0.0)
            .unwrap()
    }

    #[test]
    fn singular_values_are_those_known_and_the_rest_is_what_is_lost() {
        // Slowly decreasing values, as for differences of weights.
        let values: Vec<f64> = (0..300).map(|i| 3.0 * 0.98f64.powi(i)).collect();
        let squares = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
        for (rows, columns) in [(300, 420), (420, 300), (40, 90), (90, 40)] {
            let values = &values[..rows.min(columns)];
            let matrix = matrix(rows, columns, values);
            for rank in [1, 8, 32] {
                let found = decomposed(&matrix, rows, rank);
                assert_eq!(
                    (found.rank, found.left.len(), found.right.len()),
                    (rank, rows * rank, rank * columns)
                );
                assert!((found.whole / squares(values) - 1.0).abs() < 1e-5);
                // No factors of this rank lose less; these lose at most 0.1% more.
                let least = squares(&values[rank..]);
                assert!(
                    found.lost > least * (1.0 - 1e-5) && found.lost < least * 1.001,
                    "{rank}: {} {least}",
                    found.lost
                );
                let worst = found
                    .values
                    .iter()
                    .zip(values)
                    .map(|(found, x)| (found / x - 1.0).abs())
                    .fold(0.0, f64::max);
                assert!(worst < 1e-2, "{rows} x {columns}, rank {rank}: {worst:e}");
            }
        }
    }

    #[test]
    fn low_rank_is_found_and_is_exact() {
        for (rows, columns) in [(500, 700), (700, 500), (30, 20), (1, 9), (9, 1)] {
            let values = &[3.0, 2.0, 1e-3][..rows.min(columns).min(3)];
            let matrix = matrix(rows, columns, values);
            let found = decomposed(&matrix, rows, 8);
            assert!(found.rank >= values.len() && found.rank <= 8, "{}", found.rank);
            assert!(found.lost < 1e-11 * found.whole, "{} {}", found.lost, found.whole);
        }
        let zero = decomposed(&[0.0; 600], 20, 4);
        assert_eq!((zero.rank, zero.whole, zero.lost), (0, 0.0, 0.0));
    }

    #[test]
    fn noise_counts_as_zero() {
        let matrix = matrix(50, 60, &[1.0, 0.5, 1e-4, 1e-4]);
        let fill =
            |start: usize, out: &mut [f32]| out.copy_from_slice(&matrix[start..start + out.len()]);
        assert_eq!(
            truncated(&Made { name: "w", rows: 50, columns: 60, fill: &fill }, 8, 1e-3)
                .unwrap()
                .rank,
            2
        );
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        let fill = |_: usize, out: &mut [f32]| out.fill(f32::NAN);
        assert!(truncated(&Made { name: "w", rows: 5, columns: 6, fill: &fill }, 2, 0.0).is_err());
    }
}
