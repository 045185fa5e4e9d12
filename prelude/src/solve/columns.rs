//! Column coefficients in closed form: one system of `N x columns` unknowns per weight; of a norm
//! or an embedding, one of `N` per column.
//!
//! ```text
//! H_ab = (V_a^T V_b) o G     right_a = sum over rows of V_a o M     (H + ridge) x = right
//! ```
//!
//! With a function `f` of the coefficients, the scales are bounded by its range, and the
//! coefficients are its inverse.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::basis;
use super::block::{Block, Unit};
use super::bounded;
use super::cholesky::{Cholesky, MOST, not_definite};
use super::quadratic::Gram;
use crate::coefficients::{Merge, Nonlinearity};
use crate::error::{Error, Result};
use crate::ops::Form;

/// Solves for the column coefficients of `unit`. Returns whether its coefficients are such, and not
/// too many; otherwise nothing is changed.
///
/// # Errors
/// The system is not positive definite.
pub(super) fn solve(
    merge: &Merge,
    unit: &Unit<'_>,
    blocks: &[Block<'_>],
    ridge: f64,
) -> Result<bool> {
    let n = merge.sources();
    let mut penalties = Vec::new();
    for block in blocks {
        let form = Form { rows: 1, columns: block.columns };
        let scales = block.current_scales(merge)?;
        if scales.dims3()? != (n, 1, block.columns) || !block.is_direct(merge)? {
            return Ok(false);
        }
        penalties.push(block.ridge(form, ridge)?);
    }
    let f = merge.wrap.options.f;
    let found = match (&unit.quadratic.gram, blocks) {
        (Gram::Dense(gram), _) => {
            let columns = blocks.iter().map(|block| block.columns).sum::<usize>();
            if n * columns > MOST {
                return Ok(false);
            }
            let (matrix, right) = joint_system(unit, blocks, &penalties, gram)?;
            best(matrix, right, n, f)
        }
        // The columns of norms and embeddings are independent.
        (_, [block]) => apart(unit, block, &penalties[0], f)?,
        _ => return Ok(false),
    };
    let found = found.ok_or_else(|| not_definite(unit.name()))?;
    let columns = found.len() / n;
    let found = Tensor::from_vec(found, (n, 1, columns), &Device::Cpu)?.to_dtype(DType::F32)?;
    let mut start = 0;
    for block in blocks {
        let part = found.narrow(2, start, block.columns)?.contiguous()?;
        start += block.columns;
        match merge.set_coefficients(block.tensor, &part) {
            // They are computed after all; the general way overwrites what was set.
            Err(Error::ComputedCoefficients { .. }) => return Ok(false),
            other => other?,
        }
    }
    Ok(true)
}

/// Returns the system of all columns, of whose matrix the lower triangle, and the right-hand side.
fn joint_system(
    unit: &Unit<'_>,
    blocks: &[Block<'_>],
    penalties: &[Vec<f64>],
    gram: &Tensor,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let n = blocks[0].basis.len();
    let joined = |a: usize| {
        let parts: Vec<&Tensor> = blocks.iter().map(|block| &block.basis[a]).collect();
        Ok(if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 1)? })
    };
    let sources = (0..n).map(joined).collect::<Result<Vec<_>>>()?;
    let d = sources[0].dim(1)?;
    let size = n * d;
    let (mut matrix, mut right) = (vec![0f64; size * size], Vec::with_capacity(size));
    for (a, v) in sources.iter().enumerate() {
        let across = v.t()?.contiguous()?;
        for (b, w) in sources.iter().enumerate().take(a + 1) {
            let pair = values(&(across.matmul(w)? * gram)?)?;
            for (i, row) in pair.chunks(d).enumerate() {
                matrix[(a * d + i) * size + b * d..][..d].copy_from_slice(row);
            }
        }
        right.extend(values(&(v * &unit.quadratic.right)?.sum_keepdim(0)?)?);
    }
    let mut start = 0;
    for (block, penalty) in blocks.iter().zip(penalties) {
        for a in 0..n {
            for b in 0..=a {
                for j in start..start + block.columns {
                    matrix[(a * d + j) * size + b * d + j] += penalty[a * n + b];
                }
            }
        }
        start += block.columns;
    }
    Ok((matrix, right))
}

/// Solves for each column alone. Returns sources x columns; `None` if a system is not positive
/// definite.
fn apart(
    unit: &Unit<'_>,
    block: &Block<'_>,
    penalty: &[f64],
    f: Nonlinearity,
) -> Result<Option<Vec<f64>>> {
    let (n, d) = (block.basis.len(), block.columns);
    let mut matrices = vec![0.0; d * n * n];
    block.for_pairs(Form { rows: 1, columns: d }, |a, b, pair| {
        for (matrix, value) in matrices.chunks_mut(n * n).zip(values(&pair)?) {
            matrix[a * n + b] = value + penalty[a * n + b];
        }
        Ok(())
    })?;
    let right = |v: &Tensor| values(&(v * &unit.quadratic.right)?.sum_keepdim(0)?);
    let right = block.basis.iter().map(right).collect::<Result<Vec<_>>>()?;
    let mut all = vec![0.0; n * d];
    for (j, matrix) in matrices.chunks(n * n).enumerate() {
        let own = right.iter().map(|right| right[j]).collect();
        let Some(found) = best(matrix.to_vec(), own, n, f) else { return Ok(None) };
        found.into_iter().enumerate().for_each(|(k, c)| all[k * d + j] = c);
    }
    Ok(Some(all))
}

/// Returns the coefficients of `n` sources whose scales solve a system in the basis, of whose
/// matrix the lower triangle is given, as far as `f` can make them; `None` if it is not positive
/// definite.
fn best(matrix: Vec<f64>, mut right: Vec<f64>, n: usize, f: Nonlinearity) -> Option<Vec<f64>> {
    let (size, d, share) = (right.len(), right.len() / n, 1.0 / n as f64);
    if f == Nonlinearity::None {
        Cholesky::new(matrix, size)?.solve(&mut right);
        let t = basis::inverse(n);
        let scale = |i: usize| (0..n).map(|a| t[i / d * n + a] * right[a * d + i % d]).sum::<f64>();
        return Some((0..size).map(|i| scale(i) + share).collect());
    }
    let [low, high] = f.range();
    let (matrix, right) = in_scales(&matrix, &right, n);
    let found = bounded::solve(&matrix, &right, [low - share, high - share])?;
    Some(found.into_iter().map(|e| f.inverse((e + share).clamp(low, high))).collect())
}

/// Returns the system of `n` sources in terms of the deviations `e` of scales instead of the basis,
/// `T^T H T` and `T^T right`. `matrix` is the lower triangle of `H`; the result is all of it.
fn in_scales(matrix: &[f64], right: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (size, d, t) = (right.len(), right.len() / n, basis::forward(n));
    let mut all = vec![0.0; size * size];
    all.par_chunks_mut(size).enumerate().for_each(|(row, out)| {
        let (k, i) = (row / d, row % d);
        for (column, out) in out.iter_mut().enumerate() {
            let (l, j) = (column / d, column % d);
            for a in 0..n {
                for b in 0..n {
                    let (at, to) = (a * d + i, b * d + j);
                    let pair = matrix[at.max(to) * size + at.min(to)];
                    *out += t[a * n + k] * pair * t[b * n + l];
                }
            }
        }
    });
    let one = |row: usize| (0..n).map(|a| t[a * n + row / d] * right[a * d + row % d]).sum();
    (all, (0..size).map(one).collect())
}

/// Returns the elements in f64.
fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}
