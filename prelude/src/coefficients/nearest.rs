//! The column merge closest to a given weight `M` (rows x columns): for each column `j`, the `c`
//! that minimises
//!
//! ```text
//! || M[:, j] - sum_i c_i W_i[:, j] ||^2 + ridge || c - 1/N ||^2
//! ```
//!
//! With `e = c - 1/N`, `A = mean_i W_i` and `R = M - A`, this is `(G + ridge) e = b`, where `G[a,
//! b] = <W_a[:, j], W_b[:, j]>` and `b[a] = <W_a[:, j], R[:, j]>`: N x N, in f64, accumulated in
//! one pass over the weights. The ridge is tiny relative to `G`; it only resolves ties between
//! equal sources.

use rayon::prelude::*;

use crate::checkpoint::{TILE, Values, View};

/// A least-squares solution.
pub(crate) struct Nearest {
    /// `c`, sources x columns.
    pub coefficients: Vec<f32>,
    /// `|M - sum_i c_i W_i|^2`
    pub residual: f64,
    /// `|M - A|^2`
    pub difference: f64,
}

/// The ridge relative to the mean of the diagonal of `G`.
const RIDGE: f64 = 1e-11;

/// Chunks of rows, summed separately and then combined in order.
const CHUNKS: usize = 16;

/// Returns the column merge of `views` (equal shapes) closest to `target`. `columns` is the last
/// dimension, or 1 for a bias.
pub(crate) fn nearest(views: &[View], columns: usize, target: &Values<'_>) -> Nearest {
    let n = views.len();
    let elements: usize = views.first().map_or(0, |view| view.shape.iter().product());
    let rows = elements.div_ceil(columns.max(1));
    let stretch = rows.div_ceil(CHUNKS).max(1) * columns;
    // Per column: the lower triangle of G with its diagonal, b, and |R|^2.
    let width = n * (n + 1) / 2 + n + 1;
    let sums = (0..elements.div_ceil(stretch.max(1))).into_par_iter().map(|part| {
        let mut sums = vec![0f64; columns * width];
        let mut values = vec![0f32; (n + 1) * TILE];
        let end = elements.min((part + 1) * stretch);
        for start in (part * stretch..end).step_by(TILE) {
            let length = TILE.min(end - start);
            for (view, values) in views.iter().zip(values.chunks_mut(TILE)) {
                view.read(start, &mut values[..length]);
            }
            target(start, &mut values[n * TILE..][..length]);
            add(&values, n, start..start + length, columns, &mut sums);
        }
        sums
    });
    let mut total = vec![0f64; columns * width];
    for sums in sums.collect::<Vec<_>>() {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    let mut found =
        Nearest { coefficients: vec![0.0; n * columns], residual: 0.0, difference: 0.0 };
    for (j, sums) in total.chunks(width.max(1)).enumerate() {
        let (gram, rest) = sums.split_at(n * (n + 1) / 2);
        let (along, difference) = (&rest[..n], rest[n]);
        let e = solve(gram, along);
        (0..n).for_each(|i| found.coefficients[i * columns + j] = (1.0 / n as f64 + e[i]) as f32);
        let product = |i: usize| (0..n).map(|k| e[k] * gram[place(i, k)]).sum::<f64>();
        let reached: f64 = (0..n).map(|i| e[i] * (2.0 * along[i] - product(i))).sum();
        found.difference += difference;
        found.residual += (difference - reached).max(0.0);
    }
    found
}

/// Adds the products of a tile to the sums of its columns. `values` holds the tile of each source,
/// then that of `M`.
fn add(values: &[f32], n: usize, range: std::ops::Range<usize>, columns: usize, sums: &mut [f64]) {
    let width = n * (n + 1) / 2 + n + 1;
    for (k, at) in range.enumerate() {
        let source = |i: usize| f64::from(values[i * TILE + k]);
        let rest = source(n) - (0..n).map(source).sum::<f64>() / n as f64;
        let (gram, tail) = sums[at % columns * width..][..width].split_at_mut(n * (n + 1) / 2);
        for i in 0..n {
            (0..=i).for_each(|k| gram[place(i, k)] += source(i) * source(k));
            tail[i] += source(i) * rest;
        }
        tail[n] += rest * rest;
    }
}

/// Returns the index of element (`i`, `k`) of a symmetric matrix stored as a triangle.
fn place(i: usize, k: usize) -> usize {
    let (i, k) = (i.max(k), i.min(k));
    i * (i + 1) / 2 + k
}

/// Solves `(G + ridge) e = b` by Cholesky factorisation; a `G` of zeros gives zeros.
fn solve(gram: &[f64], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let trace: f64 = (0..n).map(|i| gram[place(i, i)]).sum();
    if trace <= 0.0 {
        return vec![0.0; n];
    }
    let ridge = RIDGE * trace / n as f64;
    let mut factor = vec![0f64; gram.len()];
    for i in 0..n {
        for k in 0..=i {
            let sum: f64 = (0..k).map(|l| factor[place(i, l)] * factor[place(k, l)]).sum();
            let left = gram[place(i, k)] - sum;
            // Rounding must not push a pivot below the ridge.
            factor[place(i, k)] =
                if i == k { (left + ridge).max(ridge).sqrt() } else { left / factor[place(k, k)] };
        }
    }
    let mut e = b.to_vec();
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| factor[place(i, k)] * e[k]).sum();
        e[i] = (e[i] - sum) / factor[place(i, i)];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| factor[place(k, i)] * e[k]).sum();
        e[i] = (e[i] - sum) / factor[place(i, i)];
    }
    e
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    fn view(values: &[f32], shape: &[usize]) -> View {
        View::of(values.iter().flat_map(|x| x.to_le_bytes()).collect(), DType::F32, shape)
    }

    fn fitted(sources: &[&[f32]], shape: &[usize], columns: usize, target: &[f32]) -> Nearest {
        let views: Vec<View> = sources.iter().map(|s| view(s, shape)).collect();
        let target: Values<'_> = Box::new(|start, out: &mut [f32]| {
            out.copy_from_slice(&target[start..start + out.len()])
        });
        nearest(&views, columns, &target)
    }

    #[test]
    fn recovers_a_column_merge() {
        let a = [1.0, 2.0, 3.0, -1.0, 0.5, 1.0];
        let b = [0.0, 1.0, 1.0, 2.0, -1.0, 4.0];
        let c = [[0.25f32, 0.75], [1.5, -0.5]];
        let target: Vec<f32> = (0..6).map(|k| c[k % 2][0] * a[k] + c[k % 2][1] * b[k]).collect();
        let found = fitted(&[&a, &b], &[3, 2], 2, &target);
        for (x, expected) in found.coefficients.iter().zip([0.25, 1.5, 0.75, -0.5]) {
            assert!((x - expected).abs() < 1e-6, "{:?}", found.coefficients);
        }
        assert!(found.residual < 1e-12 * found.difference, "{}", found.residual);
    }

    /// One column and two source directions; the nearest point is computed by hand.
    #[test]
    fn reports_the_residual() {
        // W_1 = (1, 0, 0), W_2 = (0, 1, 0), M = (2, 3, 4): c = (2, 3), 4 is out of reach.
        let found = fitted(&[&[1.0, 0.0, 0.0], &[0.0, 1.0, 0.0]], &[3], 1, &[2.0, 3.0, 4.0]);
        assert!(
            (found.coefficients[0] - 2.0).abs() < 1e-6
                && (found.coefficients[1] - 3.0).abs() < 1e-6
        );
        assert!((found.residual - 16.0).abs() < 1e-6);
        assert_eq!(found.difference, 1.5 * 1.5 + 2.5 * 2.5 + 16.0);
    }

    #[test]
    fn equal_sources_get_equal_coefficients() {
        let a = [1.0, 2.0, 3.0, 4.0];
        let found = fitted(&[&a, &a, &a], &[2, 2], 2, &[2.0, 2.0, 6.0, 4.0]);
        for (x, expected) in found.coefficients.iter().zip([2.0 / 3.0, 1.0 / 3.0].repeat(3)) {
            assert!((x - expected).abs() < 1e-5, "{:?}", found.coefficients);
        }
        let zeros = fitted(&[&[0.0, 0.0], &[0.0, 0.0]], &[1, 2], 2, &[1.0, 0.0]);
        assert_eq!((zeros.coefficients, zeros.residual), (vec![0.5; 4], 1.0));
    }
}
