//! The differentiable operations of the merge and the decoder.
//!
//! Each has a fused CPU kernel for f32 and f64 with its own backward pass, where candle has none or
//! an inefficient one, and a composition of candle's operations for other devices and dtypes. On
//! CUDA, f32 and bf16 have kernels too (`kernels`).

mod attention;
mod cross_entropy;
mod distillation;
mod gated;
mod gradient;
mod half_weight;
mod inject_gradient;
mod kernels;
mod linear;
mod mlp;
mod packed_attention;
mod product;
mod rms_norm;
mod rotary;
mod row_loss;
mod scaled_sum;
mod soft_cap;
mod truncated;

pub(crate) use attention::HIDDEN;
pub use attention::{Causal, causal_softmax};
pub use cross_entropy::cross_entropy;
pub use distillation::{entropy, kl_divergence, squared_error};
pub use gated::gated;
pub use gradient::Gradient;
pub use inject_gradient::inject_gradient;
pub use linear::{linear, linear_into};
pub use mlp::mlp;
pub use packed_attention::Attention;
pub(crate) use product::{Into, Matrix, new_product, product};
pub use rms_norm::rms_norm;
pub use rotary::{RotaryTable, rotary};
pub(crate) use scaled_sum::DeviceWeight;
pub(crate) use scaled_sum::decode_rows;
pub use scaled_sum::{Form, ScaledSum};
pub use soft_cap::soft_cap;
pub(crate) use truncated::{Made, Truncated, truncated};

use crate::device::is_composed;
use crate::vectorised::vectorised;
use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType};

/// The dtypes of fused kernels.
pub(crate) trait Real: WithDType + num_traits::Float + std::iter::Sum + Default {
    /// Computes `exp(self)` in a form that compilers vectorise.
    fn exp_fast(self) -> Self;

    /// Computes `tanh(self) = 1 - 2 / (exp(2 self) + 1)`, vectorisable too.
    #[inline(always)]
    fn tanh_fast(self) -> Self {
        let one = Self::one();
        one - (one + one) / ((self + self).exp_fast() + one)
    }

    /// Returns the elements of a storage of this dtype.
    fn slice_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;
}

impl Real for f32 {
    /// Accurate to two units in the last place; results that would underflow or overflow are
    /// clamped to finite values (`1e-38`, `1e38`). `exp(x) = 2^n exp(r)`, where `n` is the integer
    /// nearest to `x / ln 2`, with a polynomial for `exp(r)` (coefficients of the Cephes library).
    #[inline(always)]
    fn exp_fast(self) -> Self {
        // Adding this leaves the integer part in the lowest bits.
        const SHIFT: f32 = 12_582_912.0;
        let x = self.clamp(-87.0, 88.0);
        let shifted = x * std::f32::consts::LOG2_E + SHIFT;
        let n = shifted - SHIFT;
        let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
        let p = 1.987_569_1e-4f32;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_5e-1;
        let p = p * r + 0.5;
        let power =
            f32::from_bits(shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23);
        (p * r * r + r + 1.0) * power
    }

    fn slice_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F32(values) => Ok(values),
            other => candle_core::bail!(
                "f32 expected, not {:?}",
                candle_core::backend::BackendStorage::dtype(other)
            ),
        }
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp_fast(self) -> Self {
        self.exp()
    }

    fn slice_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F64(values) => Ok(values),
            other => candle_core::bail!(
                "f64 expected, not {:?}",
                candle_core::backend::BackendStorage::dtype(other)
            ),
        }
    }
}

/// The number of lanes of sums and maxima, which lets compilers vectorise them; a plain sum is
/// sequential.
const LANES: usize = 32;

/// Folds `f` of every N-tuple of elements of slices of equal length, lane by lane.
#[inline(always)]
fn fold<T: Real, const N: usize>(
    slices: [&[T]; N],
    start: T,
    f: impl Fn([T; N]) -> T,
    join: impl Fn(T, T) -> T,
) -> T {
    let mut lanes = [start; LANES];
    let chunks = slices.map(|s| s.as_chunks::<LANES>());
    for i in 0..chunks[0].0.len() {
        let rows = chunks.map(|(whole, _)| &whole[i]);
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total = join(*total, f(rows.map(|row| row[lane])));
        }
    }
    for (i, total) in lanes.iter_mut().enumerate().take(chunks[0].1.len()) {
        *total = join(*total, f(chunks.map(|(_, rest)| rest[i])));
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

/// Returns the sum of `f` of every N-tuple of elements.
#[inline(always)]
pub(crate) fn sum_of<T: Real, const N: usize>(slices: [&[T]; N], f: impl Fn([T; N]) -> T) -> T {
    fold(slices, T::zero(), f, |a, b| a + b)
}

/// Returns the largest element; minus infinity for an empty slice.
#[inline(always)]
pub(crate) fn max_of<T: Real>(slice: &[T]) -> T {
    fold([slice], T::neg_infinity(), |[x]| x, |a, b| if b > a { b } else { a })
}

/// Whether the fused CPU kernels apply to `x`.
pub(crate) fn is_fused(x: &Tensor) -> bool {
    !is_composed(x.device()) && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// Returns the elements of a contiguous operand.
pub(crate) fn elements<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => candle_core::bail!("fused operations take contiguous operands"),
    }
}

/// Calls `f` with the elements of CPU tensors; copies only tensors that are not contiguous.
pub(crate) fn with_elements<T: WithDType, const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    let tensors = tensors.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *slice = match &**storage {
            Storage::Cpu(storage) => elements(storage, layout)?,
            _ => candle_core::bail!("fused operations run on the CPU"),
        };
    }
    f(slices)
}

/// The minimum number of elements for which a loop is parallelised.
pub(crate) const PARALLEL: usize = 1 << 14;

/// Calls `$body` with `$T` as the element type of `$storage`.
macro_rules! with_real {
    ($storage:expr, $T:ident => $body:expr) => {
        match candle_core::backend::BackendStorage::dtype($storage) {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => candle_core::bail!("no fused kernel for {other:?}"),
        }
    };
}
pub(crate) use with_real;

/// Runs `f(row, out)` over all rows of `out`, `width` elements each: in parallel if that pays off,
/// with the widest vector instructions of the machine if `f` is inlined, as for [`vectorised`].
pub(crate) fn for_rows<T: Real>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    for_rows_of(out, width, width, f);
}

/// Like [`for_rows`], for rows that cost as much as `cost` elements.
pub(crate) fn for_rows_of<T: Real>(
    out: &mut [T],
    width: usize,
    cost: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    use rayon::prelude::*;
    let width = width.max(1);
    let rows = (PARALLEL / cost.max(1)).max(1);
    out.par_chunks_mut(width * rows).enumerate().for_each(|(block, chunk)| {
        vectorised(
            #[inline(always)]
            || {
                for (i, row) in chunk.chunks_mut(width).enumerate() {
                    f(block * rows + i, row);
                }
            },
        );
    });
}

/// Runs `f(start, a, b)` over equal pieces of two outputs of equal length, like [`for_rows`].
pub(crate) fn for_pieces<T: Real>(
    a: &mut [T],
    b: &mut [T],
    f: impl Fn(usize, &mut [T], &mut [T]) + Sync,
) {
    use rayon::prelude::*;
    let pieces = a.par_chunks_mut(PARALLEL).zip(b.par_chunks_mut(PARALLEL)).enumerate();
    pieces.for_each(|(i, (a, b))| {
        vectorised(
            #[inline(always)]
            || f(i * PARALLEL, a, b),
        )
    });
}

#[cfg(test)]
pub(crate) mod check;

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn sums_and_maxima_take_every_element_once() {
        for n in [0, 1, 31, 32, 33, 100] {
            let (x, y): (Vec<f64>, Vec<f64>) =
                (0..n).map(|i| (f64::from(i), f64::from(2 * i + 1))).unzip();
            assert_eq!(
                super::sum_of([&x, &y], |[x, y]| x * y),
                x.iter().zip(&y).map(|(x, y)| x * y).sum::<f64>()
            );
            let turned: Vec<f64> = y.iter().map(|y| -y).collect();
            assert_eq!(super::max_of(&turned), if n == 0 { f64::NEG_INFINITY } else { -1.0 });
        }
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!(
                (f64::from(x.exp_fast()) - exact).abs() <= 2.0 * f64::from(f32::EPSILON) * exact,
                "{x}"
            );
        }
        assert!(f32::NAN.exp_fast().is_nan());
        assert!(f32::NEG_INFINITY.exp_fast() < 1e-37);
        assert!(f32::INFINITY.exp_fast() > 1e37);
    }
}
