//! The kernels of GPUs: the merge and its gradient, RMS norm, the gate of an MLP, losses of rows of
//! logits and causal softmax, forward and backward, for f32 and bf16 with sums in f32.
//!
//! They are one text (`text/`) in the words that CUDA C++, OpenCL C and Metal Shading Language
//! share; `text/language.h` defines the others. Every kernel has one function here that prepares
//! its arguments and its launch for any `launch::Queue`. Two exist: CUDA's (`cuda.rs`), which
//! loads the text compiled to PTX, `kernels.ptx`, for any card since Ampere, and OpenCL's
//! (`opencl.rs`), with which the tests run the same launches on a CPU. Where there are kernels,
//! operations take them instead of candle's own; on Metal they are composed of candle's.
//!
//! Work groups add up in a fixed order and there are no atomics, so results are the same in every
//! run. After a change of the text, `.ci/check-gpu update` makes `kernels.ptx` again.

use candle_core::Tensor;
#[cfg(any(test, feature = "cuda"))]
use candle_core::{DType, Result};

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "cuda"))]
mod gate;
#[cfg(any(test, feature = "cuda"))]
mod launch;
#[cfg(any(test, feature = "cuda"))]
mod loss;
#[cfg(any(test, feature = "cuda"))]
mod merge;
#[cfg(any(test, feature = "cuda"))]
mod norm;
#[cfg(feature = "cuda")]
pub(super) mod on_cuda;
#[cfg(test)]
mod opencl;
#[cfg(any(test, feature = "cuda"))]
mod softmax;
#[cfg(test)]
mod tests;

/// The kernels, compiled for compute capability 8.0 in a version of PTX that every driver since
/// CUDA 11.0 reads.
#[cfg(any(test, feature = "cuda"))]
const PTX: &str = include_str!("kernels.ptx");

/// Whether there are kernels for operations on `tensors`: all on one CUDA device and of one dtype,
/// f32 or bf16, and none of them empty.
pub(super) fn has_kernels(tensors: &[&Tensor]) -> bool {
    #[cfg(feature = "cuda")]
    return tensors.iter().all(|t| {
        t.device().is_cuda()
            && matches!(t.dtype(), DType::F32 | DType::BF16)
            && t.dtype() == tensors[0].dtype()
            && t.device().same_device(tensors[0].device())
            && t.elem_count() > 0
    });
    #[cfg(not(feature = "cuda"))]
    {
        let _ = tensors;
        false
    }
}

/// Returns the name of kernel `name` for `dtype`.
#[cfg(any(test, feature = "cuda"))]
fn named(name: &str, dtype: DType) -> Result<String> {
    match dtype {
        DType::F32 => Ok(format!("{name}_f32")),
        DType::BF16 => Ok(format!("{name}_bf16")),
        other => candle_core::bail!("{name}: no kernel for {other:?}; use f32 or bf16"),
    }
}
