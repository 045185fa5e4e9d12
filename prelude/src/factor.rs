//! Layer 0: low-rank factors, in f64, of a matrix that is read row by row.
//!
//! [`principal`] returns the part of `W` with its `r` largest singular values, `top_r(W) = (W R)
//! R^T`, where the columns of `R` are the right singular vectors. For small matrices they come from
//! the eigenvectors of the Gram matrix. For larger ones, a block Lanczos iteration on `W^T W` finds
//! them (Golub and Underwood 1977; with a random start as in Musco and Musco, arXiv 1504.05477). It
//! reorthogonalizes against the whole basis and stops when the angle between the computed and the
//! exact space is below 1e-8. The start is seeded, results do not depend on the number of threads,
//! and `W` is never held in memory. (`ops::truncated` is far faster, but only the loss of its
//! factors is near the least; an adapter needs the singular space itself, which it was trained
//! beside.)
//!
//! [`leading_columns`] returns the result of the first `r` steps of a QR decomposition: `Q_r Q_r^T
//! W`, where `Q_r` spans the first `r` columns.

use nalgebra::{DMatrix, SymmetricEigen};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A matrix that is read by rows.
pub(crate) struct Rows<'a> {
    pub rows: usize,
    pub columns: usize,
    /// Fills the slice with the row of the given index.
    pub read: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

/// The product `left right`.
pub(crate) struct Factors {
    /// rows x rank.
    pub left: Vec<f32>,
    /// rank x columns.
    pub right: Vec<f32>,
    pub rank: usize,
}

/// The largest shorter side for which the full Gram matrix is decomposed.
const MAX_GRAM_SIDE: usize = 256;

/// Vectors per block.
const BLOCK: usize = 24;

/// Elements of the matrix in memory at a time.
const BLOCK_ELEMENTS: usize = 1 << 22;

/// The part of `matrix` with its `rank` largest singular values; `None` if the iteration fails, for
/// example on non-finite values.
pub(crate) fn principal(matrix: &Rows<'_>, rank: usize) -> Option<Factors> {
    let shorter = matrix.rows.min(matrix.columns);
    let rank = rank.min(shorter);
    let iterated = if shorter > MAX_GRAM_SIDE { iterate(matrix, rank) } else { None };
    let right = iterated.or_else(|| by_gram(matrix, rank))?.transpose();
    let mut left = Vec::with_capacity(matrix.rows * rank);
    matrix.blocks(|block| left.extend((&right * block).iter().map(|x| *x as f32)));
    Some(Factors { left, right: by_rows(&right), rank })
}

/// The projection of `matrix` onto the span of its first `rank` columns.
pub(crate) fn leading_columns(matrix: &Rows<'_>, rank: usize) -> Factors {
    let rank = rank.min(matrix.rows).min(matrix.columns);
    let mut first = DMatrix::zeros(matrix.rows, rank);
    let mut row = vec![0f32; matrix.columns];
    for i in 0..matrix.rows {
        (matrix.read)(i, &mut row);
        (0..rank).for_each(|j| first[(i, j)] = f64::from(row[j]));
    }
    let q = first.qr().q();
    let mut right = DMatrix::zeros(matrix.columns, rank);
    let mut start = 0;
    matrix.blocks(|block| {
        right.gemm(1.0, block, &q.rows(start, block.ncols()), 1.0);
        start += block.ncols();
    });
    Factors { left: by_rows(&q), right: right.iter().map(|x| *x as f32).collect(), rank }
}

impl Rows<'_> {
    /// Calls `f` with blocks of rows in order. Each block is transposed: rows become columns.
    fn blocks(&self, mut f: impl FnMut(&DMatrix<f64>)) {
        let count = (BLOCK_ELEMENTS / self.columns.max(1)).clamp(1, self.rows.max(1));
        let mut row = vec![0f32; self.columns];
        for start in (0..self.rows).step_by(count) {
            let mut block = DMatrix::zeros(self.columns, count.min(self.rows - start));
            for (i, mut column) in block.column_iter_mut().enumerate() {
                (self.read)(start + i, &mut row);
                column.iter_mut().zip(&row).for_each(|(to, from)| *to = f64::from(*from));
            }
            f(&block);
        }
    }
}

/// The elements of `matrix` in row-major order.
fn by_rows(matrix: &DMatrix<f64>) -> Vec<f32> {
    matrix.transpose().iter().map(|x| *x as f32).collect()
}

/// The first `rank` right singular vectors, as columns, from the eigenvectors of the smaller Gram
/// matrix.
fn by_gram(matrix: &Rows<'_>, rank: usize) -> Option<DMatrix<f64>> {
    let mut whole = DMatrix::zeros(matrix.columns, matrix.rows);
    let mut start = 0;
    matrix.blocks(|block| {
        whole.columns_mut(start, block.ncols()).copy_from(block);
        start += block.ncols();
    });
    let across = whole.transpose();
    if matrix.rows >= matrix.columns {
        return Some(leading(&whole * across, rank)?.1);
    }
    // The row space reached from the left vectors; for singular values of zero, QR fills in any
    // orthonormal vectors.
    let (_, left) = leading(across * &whole, rank)?;
    Some((whole * left).qr().q())
}

/// The `count` largest eigenvalues of a symmetric matrix, in descending order, and their
/// eigenvectors.
fn leading(matrix: DMatrix<f64>, count: usize) -> Option<(Vec<f64>, DMatrix<f64>)> {
    let size = matrix.nrows();
    if matrix.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let eigen = SymmetricEigen::try_new(matrix, f64::EPSILON, 100 * size.max(10))?;
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    order.truncate(count);
    let vectors = DMatrix::from_fn(size, order.len(), |i, j| eigen.eigenvectors[(i, order[j])]);
    Some((order.into_iter().map(|i| eigen.eigenvalues[i]).collect(), vectors))
}

/// The first `rank` right singular vectors, as columns, by block Lanczos; `None` if that needs most
/// of the space.
fn iterate(matrix: &Rows<'_>, rank: usize) -> Option<DMatrix<f64>> {
    let most = matrix.rows.min(matrix.columns) * 2 / 3;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let start = DMatrix::from_fn(matrix.columns, BLOCK, |_, _| random.random_range(-1.0..1.0));
    // The basis block by block, and the transpose of each block, used in products.
    let mut basis = vec![start.qr().q()];
    let mut across = vec![basis[0].transpose()];
    let mut small = DMatrix::<f64>::zeros(0, 0);
    let mut next_check = (rank + BLOCK).max(4 * BLOCK);
    loop {
        let size = basis.len() * BLOCK;
        let last = basis.len() - 1;
        let mut next = DMatrix::zeros(matrix.columns, BLOCK);
        matrix.blocks(|block| next.gemm(1.0, block, &(&across[last] * block).transpose(), 1.0));
        small.resize_mut(size, size, 0.0);
        let found = project(&basis, &across, &mut next);
        small.view_mut((0, last * BLOCK), (size, BLOCK)).copy_from(&found);
        small.view_mut((last * BLOCK, 0), (BLOCK, size)).copy_from(&found.transpose());
        let first = next.qr();
        let mut next = first.q();
        project(&basis, &across, &mut next);
        // A second pass: vectors nearly within the basis have lost precision.
        let second = next.qr();
        let beyond = second.r() * first.r();
        let scale = small.amax();
        let is_whole = beyond.amax() <= 1e-14 * scale;
        if size >= next_check && size > rank || is_whole {
            next_check = size + size / 3;
            let (values, vectors) = leading(small.clone(), rank + 1)?;
            let within = vectors.columns(0, rank.min(vectors.ncols()));
            let off = (beyond * within.rows(last * BLOCK, BLOCK)).norm();
            let gap = values.get(rank - 1).copied().unwrap_or(0.0)
                - values.get(rank).copied().unwrap_or(0.0);
            if is_whole || off <= (1e-8 * gap).max(1e-13 * scale) {
                let mut right = DMatrix::zeros(matrix.columns, within.ncols());
                for (i, block) in basis.iter().enumerate() {
                    right.gemm(1.0, block, &within.rows(i * BLOCK, BLOCK), 1.0);
                }
                return Some(right);
            }
        }
        if size + BLOCK > most {
            return None;
        }
        basis.push(second.q());
        across.push(basis[last + 1].transpose());
    }
}

/// Orthogonalizes `vectors` against `basis`, twice; returns the coefficients.
fn project(
    basis: &[DMatrix<f64>],
    across: &[DMatrix<f64>],
    vectors: &mut DMatrix<f64>,
) -> DMatrix<f64> {
    let mut found = DMatrix::zeros(basis.len() * BLOCK, BLOCK);
    for _ in 0..2 {
        for (i, (block, across)) in basis.iter().zip(across).enumerate() {
            let part = across * &*vectors;
            vectors.gemm(-1.0, block, &part, 1.0);
            let mut sum = found.rows_mut(i * BLOCK, BLOCK);
            sum += part;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sum of values[i] u_i v_i^T` with random orthonormal vectors.
    fn matrix(
        rows: usize,
        columns: usize,
        values: &[f64],
        seed: u64,
    ) -> (DMatrix<f64>, DMatrix<f64>, DMatrix<f64>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut orthonormal = |n: usize| {
            DMatrix::<f64>::from_fn(n, values.len(), |_, _| random.random_range(-1.0..1.0)).qr().q()
        };
        let (u, v) = (orthonormal(rows), orthonormal(columns));
        let scaled = DMatrix::from_fn(rows, values.len(), |i, j| u[(i, j)] * values[j]);
        (&scaled * v.transpose(), scaled, v)
    }

    fn of(matrix: &DMatrix<f64>, f: impl FnOnce(&Rows<'_>) -> Factors) -> DMatrix<f64> {
        let read = |i: usize, row: &mut [f32]| {
            row.iter_mut().enumerate().for_each(|(j, x)| *x = matrix[(i, j)] as f32)
        };
        let factors = f(&Rows { rows: matrix.nrows(), columns: matrix.ncols(), read: &read });
        let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let left = DMatrix::from_row_slice(matrix.nrows(), factors.rank, &wide(&factors.left));
        left * DMatrix::from_row_slice(factors.rank, matrix.ncols(), &wide(&factors.right))
    }

    #[test]
    fn principal_parts_match_the_known_singular_values() {
        // Slowly decreasing values, as in real weights: neighbours differ by half a percent.
        let values: Vec<f64> = (0..300).map(|i| 5.0 * 0.995f64.powi(i)).collect();
        for (rows, columns) in [(300, 420), (420, 300), (40, 90), (90, 40), (300, 300)] {
            let values = &values[..rows.min(columns)];
            let (whole, scaled, v) = matrix(rows, columns, values, 7);
            for rank in [1, 8, 33] {
                let expected = scaled.columns(0, rank) * v.columns(0, rank).transpose();
                let worst = (of(&whole, |m| principal(m, rank).unwrap()) - expected).amax();
                assert!(worst < 1e-5, "{rows} x {columns}, rank {rank}: {worst:e}");
            }
        }
    }

    #[test]
    fn a_matrix_of_low_rank_is_its_own_principal_part() {
        for (rows, columns) in [(300, 400), (30, 20)] {
            let (whole, ..) = matrix(rows, columns, &[3.0, 2.0, 1.0], 3);
            assert!((of(&whole, |m| principal(m, 8).unwrap()) - &whole).amax() < 1e-6);
            let zero = DMatrix::zeros(rows, columns);
            assert!(of(&zero, |m| principal(m, 4).unwrap()).amax() == 0.0);
        }
        let read = |_: usize, row: &mut [f32]| row.fill(f32::NAN);
        for rows in [20, 300] {
            assert!(principal(&Rows { rows, columns: 300, read: &read }, 4).is_none());
        }
    }

    #[test]
    fn leading_columns_are_kept_and_the_others_projected() {
        let (whole, ..) = matrix(30, 50, &[4.0, 3.0, 2.0, 1.0, 0.5, 0.25], 5);
        let kept = of(&whole, |m| leading_columns(m, 3));
        assert!((kept.columns(0, 3) - whole.columns(0, 3)).amax() < 1e-6);
        // The remainder is orthogonal to the first columns.
        assert!((whole.columns(0, 3).transpose() * (&whole - &kept)).amax() < 1e-5);
    }
}
