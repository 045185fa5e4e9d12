//! Least squares with bounds, by principal pivoting in blocks: unknowns beyond a bound are fixed
//! there, and released where the objective then falls inwards (Kim and Park, SIAM J. Sci. Comput.
//! 33, 2011).

use super::cholesky::Cholesky;

/// Exchanges of blocks that do not lower the number of unknowns in the wrong place, before single
/// ones are exchanged, which cannot cycle.
const PATIENCE: usize = 3;

/// The maximum number of factorisations.
const ROUNDS: usize = 40;

/// Minimises `x^T H x - 2 right^T x` where every element of `x` is from `low` to `high`. `matrix`
/// is `H`, symmetric, row by row; `None` if it is not positive definite.
pub(super) fn solve(matrix: &[f64], right: &[f64], [low, high]: [f64; 2]) -> Option<Vec<f64>> {
    let n = right.len();
    let mut fixed: Vec<Option<f64>> = vec![None; n];
    let (mut x, mut fewest, mut patience) = (vec![0.0; n], n + 1, PATIENCE);
    for _ in 0..ROUNDS {
        free_part(matrix, right, &fixed, &mut x)?;
        let mut wrong = Vec::new();
        for i in 0..n {
            let moved = match fixed[i] {
                None if x[i] < low => Some(low),
                None if x[i] > high => Some(high),
                None => continue,
                Some(bound) => {
                    let row = &matrix[i * n..][..n];
                    let slope = row.iter().zip(&x).map(|(h, x)| h * x).sum::<f64>() - right[i];
                    let inwards = if bound == low { slope < 0.0 } else { slope > 0.0 };
                    if !inwards {
                        continue;
                    }
                    None
                }
            };
            wrong.push((i, moved));
        }
        if wrong.is_empty() {
            break;
        }
        if wrong.len() < fewest {
            (fewest, patience) = (wrong.len(), PATIENCE);
        } else if patience > 0 {
            patience -= 1;
        } else {
            wrong.drain(..wrong.len() - 1);
        }
        wrong.into_iter().for_each(|(i, moved)| fixed[i] = moved);
    }
    x.iter_mut().for_each(|x| *x = x.clamp(low, high));
    Some(x)
}

/// Solves for the unknowns that are not fixed.
fn free_part(matrix: &[f64], right: &[f64], fixed: &[Option<f64>], x: &mut [f64]) -> Option<()> {
    let n = right.len();
    let free: Vec<usize> = (0..n).filter(|i| fixed[*i].is_none()).collect();
    for (x, bound) in x.iter_mut().zip(fixed) {
        *x = bound.unwrap_or(0.0);
    }
    let row = |i: &usize| &matrix[i * n..][..n];
    let left = |i: &usize| right[*i] - row(i).iter().zip(&*x).map(|(h, x)| h * x).sum::<f64>();
    let mut found: Vec<f64> = free.iter().map(left).collect();
    let of_free = |i: &usize| free.iter().map(|j| row(i)[*j]).collect::<Vec<_>>();
    let reduced: Vec<f64> = free.iter().flat_map(of_free).collect();
    Cholesky::new(reduced, free.len())?.solve(&mut found);
    free.iter().zip(found).for_each(|(i, value)| x[*i] = value);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, values};

    /// Coordinate descent with bounds, which converges to the same minimum.
    fn descent(h: &[f64], right: &[f64], [low, high]: [f64; 2]) -> Vec<f64> {
        let n = right.len();
        let mut x = vec![0.0; n];
        for _ in 0..20_000 {
            for i in 0..n {
                let others = (0..n).filter(|j| *j != i).map(|j| h[i * n + j] * x[j]).sum::<f64>();
                x[i] = ((right[i] - others) / h[i * n + i]).clamp(low, high);
            }
        }
        x
    }

    #[test]
    fn it_finds_the_minimum_within_the_bounds() {
        for (seed, n, bounds) in
            [(1, 12, [-0.5, 0.5]), (2, 30, [0.0, 1.0]), (3, 30, [0.0, f64::INFINITY])]
        {
            let a = random(&[n, n], seed);
            let h = (a.matmul(&a.t().unwrap()).unwrap() + 0.0).unwrap();
            let eye = candle_core::Tensor::eye(n, h.dtype(), h.device()).unwrap();
            let h = values(&(h + (eye * 0.5).unwrap()).unwrap());
            let right = values(&(random(&[n], seed + 10) * 5.0).unwrap());
            let (found, expected) =
                (solve(&h, &right, bounds).unwrap(), descent(&h, &right, bounds));
            let at_bound = found.iter().filter(|x| bounds.contains(x)).count();
            assert!(at_bound > 0 && at_bound < n, "{at_bound} of {n}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-8, "{found} and {expected}");
            }
        }
    }

    #[test]
    fn without_bounds_it_is_the_solution_of_the_system() {
        let x = solve(&[2.0, 1.0, 1.0, 3.0], &[3.0, 5.0], [f64::NEG_INFINITY, f64::INFINITY]);
        let x = x.unwrap();
        assert!((x[0] - 0.8).abs() < 1e-12 && (x[1] - 1.4).abs() < 1e-12, "{x:?}");
    }
}
