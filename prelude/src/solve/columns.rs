//! Column coefficients in closed form: one system of `N x columns` unknowns per weight.
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
    let (n, d) = (merge.sources(), blocks.iter().map(|b| b.columns).sum::<usize>());
    let Gram::Dense(gram) = &unit.quadratic.gram else { return Ok(false) };
    let size = n * d;
    if size > MOST {
        return Ok(false);
    }
    let mut penalties = Vec::new();
    for block in blocks {
        let form = Form { rows: 1, columns: block.columns };
        let scales = block.current_scales(merge)?;
        if scales.dims3()? != (n, 1, block.columns) || !block.is_direct(merge)? {
            return Ok(false);
        }
        penalties.push(block.ridge(form, ridge)?);
    }
    let joined = |a: usize| {
        let parts: Vec<&Tensor> = blocks.iter().map(|block| &block.basis[a]).collect();
        Ok(if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 1)? })
    };
    let sources = (0..n).map(joined).collect::<Result<Vec<_>>>()?;

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
    for (block, penalty) in blocks.iter().zip(&penalties) {
        for a in 0..n {
            for b in 0..=a {
                for j in start..start + block.columns {
                    matrix[(a * d + j) * size + b * d + j] += penalty[a * n + b];
                }
            }
        }
        start += block.columns;
    }
    let f = merge.wrap.options.f;
    let found = if f == Nonlinearity::None {
        let factor = Cholesky::new(matrix, size);
        factor.map(|factor| {
            factor.solve(&mut right);
            right
        })
    } else {
        let [low, high] = f.range().map(|scale| scale - 1.0 / n as f64);
        let (matrix, right) = in_scales(&matrix, &right, n);
        bounded::solve(&matrix, &right, [low, high])
    };
    let found = found.ok_or_else(|| not_definite(unit.name()))?;
    let found = Tensor::from_vec(found, (n, 1, d), &Device::Cpu)?;
    let shares = match f {
        Nonlinearity::None => (basis::times(&basis::inverse(n), &found, false)? + 1.0 / n as f64)?,
        f => {
            let [low, high] = f.range();
            let c = |e: f64| f.inverse((e + 1.0 / n as f64).clamp(low, high));
            let all = found.flatten_all()?.to_vec1::<f64>()?.into_iter().map(c);
            Tensor::from_vec(all.collect::<Vec<_>>(), (n, 1, d), &Device::Cpu)?
        }
    };
    let shares = shares.to_dtype(DType::F32)?;
    let mut start = 0;
    for block in blocks {
        let part = shares.narrow(2, start, block.columns)?.contiguous()?;
        start += block.columns;
        match merge.set_coefficients(block.tensor, &part) {
            // They are computed after all; the general way overwrites what was set.
            Err(Error::ComputedCoefficients { .. }) => return Ok(false),
            other => other?,
        }
    }
    Ok(true)
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
