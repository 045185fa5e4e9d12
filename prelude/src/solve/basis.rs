//! Mean and differences: the basis in which the sources enter a system.
//!
//! ```text
//! sum_k e_k W_k = sum_a x_a V_a      V_0 = mean_k W_k      V_a = W_a - W_0 for a > 0
//! x = T e:   x_0 = sum_k e_k         x_a = e_a - x_0 / N
//! ```
//!
//! `W_0` is the first source. `e = s - 1/N` are scales in deviations from the average of the
//! sources. Differences are computed before any product, so that products of nearly equal sources
//! do not cancel.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// Returns the weights of the sources in `V_a`.
pub(super) fn weights(sources: usize, a: usize) -> Vec<f64> {
    if a == 0 {
        return vec![1.0 / sources as f64; sources];
    }
    let mut weights = vec![0.0; sources];
    (weights[0], weights[a]) = (-1.0, 1.0);
    weights
}

/// Returns the weights of the sources in `W_i`, or with `apart` in `W_i` minus the average.
pub(super) fn weights_of(sources: usize, i: usize, apart: bool) -> Vec<f64> {
    let rest = if apart { -1.0 / sources as f64 } else { 0.0 };
    (0..sources).map(|k| rest + f64::from(u8::from(k == i))).collect()
}

/// Returns `T`, row by row.
pub(super) fn forward(sources: usize) -> Vec<f64> {
    let (n, share) = (sources, 1.0 / sources as f64);
    let value = |a: usize, k: usize| match a {
        0 => 1.0,
        _ => f64::from(u8::from(a == k)) - share,
    };
    (0..n).flat_map(|a| (0..n).map(move |k| value(a, k))).collect()
}

/// Returns the inverse of `T`, row by row.
pub(super) fn inverse(sources: usize) -> Vec<f64> {
    let (n, share) = (sources, 1.0 / sources as f64);
    let value = |k: usize, a: usize| match (k, a) {
        (_, 0) => share,
        (0, _) => -1.0,
        _ => f64::from(u8::from(a == k)),
    };
    (0..n).flat_map(|k| (0..n).map(move |a| value(k, a))).collect()
}

/// Returns the product of `matrix` (N x N, row by row) with the first dimension of `x`, N x ...;
/// with `transposed`, of its transpose.
pub(super) fn times(matrix: &[f64], x: &Tensor, transposed: bool) -> Result<Tensor> {
    let (n, dims) = (x.dim(0)?, x.dims().to_vec());
    let matrix = Tensor::from_slice(matrix, (n, n), &candle_core::Device::Cpu)?;
    let matrix = if transposed { matrix.t()?.contiguous()? } else { matrix };
    let matrix = matrix.to_dtype(x.dtype())?.to_device(x.device())?;
    Ok(matrix.matmul(&x.reshape((n, ()))?.contiguous()?)?.reshape(dims)?)
}

/// Returns `e = s - 1/N` in the basis: `x`, in `dtype`.
pub(super) fn deviations(scales: &Tensor, dtype: DType) -> Result<Tensor> {
    let n = scales.dim(0)?;
    let e = scales.detach().to_dtype(dtype)?.affine(1.0, -1.0 / n as f64)?;
    times(&forward(n), &e, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_basis_has_an_inverse_and_keeps_the_sum() {
        for n in 2..5 {
            let (t, a) = (forward(n), inverse(n));
            let sources: Vec<f64> = (0..n).map(|k| (k * k) as f64 + 0.5).collect();
            for i in 0..n {
                for j in 0..n {
                    let product: f64 = (0..n).map(|l| t[i * n + l] * a[l * n + j]).sum();
                    assert!((product - f64::from(u8::from(i == j))).abs() < 1e-12);
                }
                let e = weights_of(n, i, true);
                let x: Vec<f64> =
                    (0..n).map(|a| (0..n).map(|k| t[a * n + k] * e[k]).sum()).collect();
                let dot = |w: &[f64]| w.iter().zip(&sources).map(|(w, x)| w * x).sum::<f64>();
                let found: f64 = (0..n).map(|a| x[a] * dot(&weights(n, a))).sum();
                assert!((found - dot(&e)).abs() < 1e-12);
            }
        }
    }
}
