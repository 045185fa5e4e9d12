//! Floor 2: the differentiable operations of a merge and of a decoder.
//!
//! Each has a fused CPU kernel for f32 and f64 with a backward of its own, where candle has none or a
//! wasteful one, and the same in candle's operations for other devices and dtypes.

mod attention;
mod column_merge;
mod cross_entropy;
mod distillation;
mod linear;
mod rms_norm;
mod rotary;
mod row_loss;
mod swiglu;

pub use attention::{Causal, causal_softmax};
pub use column_merge::ColumnMerge;
pub(crate) use column_merge::encode;
pub use cross_entropy::cross_entropy;
pub use distillation::{entropy, kl_divergence, squared_error};
pub use linear::linear;
pub use rms_norm::rms_norm;
pub use rotary::{RotaryTable, rotary};
pub use swiglu::swiglu;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType};

/// The dtypes that fused kernels run in.
pub(crate) trait Real: WithDType + num_traits::Float + std::iter::Sum + Default {}
impl Real for f32 {}
impl Real for f64 {}

/// Whether the fused CPU kernels apply to `x`.
pub(crate) fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// The elements of a contiguous operand.
pub(crate) fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => candle_core::bail!("fused operations take contiguous operands"),
    }
}

/// Calls `f` with the elements of CPU tensors, copying only those that are not contiguous.
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

/// Elements below which a loop is not worth sharing among threads.
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

/// Runs `f(row, out)` over all rows of `out`, `width` elements each: on all cores where that pays,
/// with the widest vector instructions this machine has.
pub(crate) fn for_rows<T: Real>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    for_rows_of(out, width, width, f);
}

/// [`for_rows`] where a row costs as much as `cost` elements.
pub(crate) fn for_rows_of<T: Real>(out: &mut [T], width: usize, cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    use rayon::prelude::*;
    let width = width.max(1);
    let arch = pulp::Arch::new();
    let rows = (PARALLEL / cost.max(1)).max(1);
    out.par_chunks_mut(width * rows).enumerate().for_each(|(block, chunk)| {
        arch.dispatch(|| {
            for (i, row) in chunk.chunks_mut(width).enumerate() {
                f(block * rows + i, row);
            }
        });
    });
}

#[cfg(test)]
pub(crate) mod check;
