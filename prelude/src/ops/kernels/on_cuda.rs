//! Operations on CUDA tensors, by their kernels.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, DType, InplaceOp1, InplaceOp2, Layout, Result, Shape,
    Storage, Tensor, Var,
};

use super::cuda::{Buffer, Cuda};
use super::gate::{self, Gate};
pub(in crate::ops) use super::loss::Loss;
use super::loss::{Logits, row_loss};
use super::merge::{self, Source, Weights};
use super::norm::RmsNorm;
use super::softmax::Softmax;
use crate::checkpoint::Activation;
use crate::ops::{Causal, Form};

/// Calls `f` with the device of CUDA tensors and their elements; copies only tensors that are not
/// contiguous.
fn with_buffers<R>(
    tensors: &[&Tensor],
    f: impl for<'a> FnOnce(&Cuda<'a>, &[Buffer<'a>]) -> Result<R>,
) -> Result<R> {
    let tensors = tensors.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let buffers = guards.iter().map(|(storage, layout)| Buffer::of(on_cuda(storage)?, layout));
    let buffers = buffers.collect::<Result<Vec<_>>>()?;
    f(&Cuda { device: tensors[0].device().as_cuda_device()? }, &buffers)
}

fn on_cuda(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => candle_core::bail!("an operand on another device"),
    }
}

/// Whether there is a kernel for the merge of `weights` with `scales`.
pub(in crate::ops) fn merges(weights: &[Tensor], scales: &Tensor) -> bool {
    scales.dtype() == DType::F32 && weights.iter().all(|w| reads(w, scales))
}

/// Whether there is a kernel for the gradient of the scales for `gradient` of the merge.
pub(in crate::ops) fn merges_back(weights: &[Tensor], gradient: &Tensor) -> bool {
    matches!(gradient.dtype(), DType::F32 | DType::BF16)
        && weights.iter().all(|w| reads(w, gradient))
}

fn reads(weight: &Tensor, other: &Tensor) -> bool {
    weight.device().is_cuda()
        && weight.device().same_device(other.device())
        && matches!(weight.dtype(), DType::F32 | DType::BF16 | DType::F16)
        && weight.elem_count() > 0
}

/// Returns `tensor` at an address that vectors of four elements may be read from.
fn aligned(tensor: &Tensor) -> Result<Tensor> {
    if tensor.layout().start_offset().is_multiple_of(4) {
        Ok(tensor.clone())
    } else {
        tensor.force_contiguous()
    }
}

/// Calls `f` with `weights` (equal shapes, rows x columns) and the elements of `other`.
fn with_weights<R>(
    weights: &[Tensor],
    other: &Tensor,
    form: Form,
    f: impl for<'a> FnOnce(&Cuda<'a>, &Weights<'_, Buffer<'a>>, &Buffer<'a>) -> Result<R>,
) -> Result<R> {
    let (rows, columns) = weights[0].dims2()?;
    let aligned = weights.iter().chain([other]).map(aligned).collect::<Result<Vec<_>>>()?;
    let all: Vec<&Tensor> = aligned.iter().collect();
    with_buffers(&all, |cuda, buffers| {
        let sources = buffers.iter().zip(weights);
        let sources: Vec<_> =
            sources.map(|(weight, of)| Source { weight, dtype: of.dtype() }).collect();
        f(cuda, &Weights { sources: &sources, rows, columns, form }, &buffers[weights.len()])
    })
}

/// Writes the merge of `weights` (rows x columns) with `scales` (sources x R x C) over `merged`.
///
/// # Errors
/// Operands for which [`merges`] is false; a launch that fails.
pub(in crate::ops) fn merge_into(weights: &[Tensor], scales: &Tensor, merged: &Var) -> Result<()> {
    merged.inplace_op1(&Overwrite { weights, scales })
}

/// Returns the merge of `weights` (rows x columns) with `scales` (sources x R x C), in f32.
///
/// # Errors
/// As for [`merge_into`].
pub(in crate::ops) fn merge(weights: &[Tensor], scales: &Tensor) -> Result<Tensor> {
    let (_, rows, columns) = scales.dims3()?;
    with_weights(weights, scales, Form { rows, columns }, |cuda, weights, scales| {
        let shape = (weights.rows, weights.columns);
        let mut merged = super::launch::Queue::allocate(cuda, DType::F32, shape.0 * shape.1)?;
        merge::forward(cuda, weights, scales, &mut merged, DType::F32)?;
        merged.into_tensor(shape)
    })
}

struct Overwrite<'a> {
    weights: &'a [Tensor],
    scales: &'a Tensor,
}

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("the kernel of the merge runs on CUDA")
    }

    fn cuda_fwd(&self, merged: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let (_, rows, columns) = self.scales.dims3()?;
        let dtype = merged.dtype();
        with_weights(self.weights, self.scales, Form { rows, columns }, |cuda, weights, scales| {
            let mut merged = Buffer::of_mut(merged, layout)?;
            merge::forward(cuda, weights, scales, &mut merged, dtype)
        })
    }
}

/// Returns the gradient of the scales (sources x R x C, in the dtype of `gradient`) for that of the
/// merge of `weights` (both rows x columns).
///
/// # Errors
/// Operands for which [`merges_back`] is false; a launch that fails.
pub(in crate::ops) fn merge_backward(
    weights: &[Tensor],
    gradient: &Tensor,
    form: Form,
) -> Result<Tensor> {
    let dtype = gradient.dtype();
    with_weights(weights, gradient, form, |cuda, weights, gradient| {
        let sums = merge::backward(cuda, weights, gradient, dtype)?;
        sums.into_tensor((weights.sources.len(), form.rows, form.columns))
    })?
    .to_dtype(dtype)
}

fn norm_of(layout: &Layout, eps: f64, dtype: DType) -> Result<RmsNorm> {
    let columns = layout.shape().dim(D::Minus1)?;
    let rows = layout.shape().elem_count() / columns.max(1);
    Ok(RmsNorm { rows, columns, eps, dtype })
}

/// Returns the RMS norm of `x` with weight `w`.
///
/// # Errors
/// Operands of different dtypes or that are not contiguous; a launch that fails.
pub(in crate::ops) fn rms_norm(
    (x, xl): (&CudaStorage, &Layout),
    (w, wl): (&CudaStorage, &Layout),
    eps: f64,
) -> Result<(CudaStorage, Shape)> {
    let norm = norm_of(xl, eps, x.dtype())?;
    if wl.shape().elem_count() != norm.columns {
        candle_core::bail!("rms_norm: {:?} does not fit {:?}", wl.dims(), xl.dims());
    }
    let y = norm.forward(&Cuda { device: &x.device }, &Buffer::of(x, xl)?, &Buffer::of(w, wl)?)?;
    Ok((y.into_storage()?, xl.shape().clone()))
}

/// Returns the gradients of `x` and `w`.
///
/// # Errors
/// As for [`rms_norm`].
pub(in crate::ops) fn rms_norm_backward(
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    eps: f64,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let norm = norm_of(x.layout(), eps, x.dtype())?;
    with_buffers(&[x, w, dy], |cuda, b| {
        let (dx, dw) = norm.backward(cuda, &b[0], &b[1], &b[2])?;
        Ok((Some(dx.into_tensor(x.shape())?), Some(dw.into_tensor(w.shape())?)))
    })
}

/// Returns `f(gate) * up`.
///
/// # Errors
/// As for [`rms_norm`].
pub(in crate::ops) fn gated(
    (g, gl): (&CudaStorage, &Layout),
    (u, ul): (&CudaStorage, &Layout),
    f: Activation,
) -> Result<(CudaStorage, Shape)> {
    let gate = Gate { f, elements: gl.shape().elem_count(), dtype: g.dtype() };
    let y = gate.forward(&Cuda { device: &g.device }, &Buffer::of(g, gl)?, &Buffer::of(u, ul)?)?;
    Ok((y.into_storage()?, gl.shape().clone()))
}

/// Returns the gradients of the gate and of `up`.
///
/// # Errors
/// As for [`rms_norm`].
pub(in crate::ops) fn gated_backward(
    g: &Tensor,
    u: &Tensor,
    dy: &Tensor,
    f: Activation,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let gate = Gate { f, elements: g.elem_count(), dtype: g.dtype() };
    with_buffers(&[g, u, dy], |cuda, b| {
        let (dg, du) = gate.backward(cuda, &b[0], &b[1], &b[2])?;
        Ok((Some(dg.into_tensor(g.shape())?), Some(du.into_tensor(u.shape())?)))
    })
}

/// Returns a loss summed over the rows of `z` (one f32) and, if `wanted`, its gradient.
///
/// # Errors
/// As for [`rms_norm`].
pub(in crate::ops) fn loss(
    (z, zl): (&CudaStorage, &Layout),
    loss: &Loss<Tensor>,
    wanted: bool,
) -> Result<(CudaStorage, Option<Tensor>)> {
    let (rows, columns) = zl.shape().dims2()?;
    let run = |cuda: &Cuda<'_>, loss: Loss<&Buffer<'_>>| {
        let logits = Logits { z: &Buffer::of(z, zl)?, rows, columns, dtype: z.dtype() };
        let (sum, gradient) = row_loss(cuda, &logits, loss, wanted)?;
        let gradient = gradient.map(|gradient| gradient.into_tensor((rows, columns)));
        Ok((sum.into_storage()?, gradient.transpose()?))
    };
    match loss {
        Loss::Kl { teacher, temperature } => with_buffers(&[teacher], |cuda, b| {
            run(cuda, Loss::Kl { teacher: &b[0], temperature: *temperature })
        }),
        Loss::CrossEntropy { targets } => {
            with_buffers(&[targets], |cuda, b| run(cuda, Loss::CrossEntropy { targets: &b[0] }))
        }
        Loss::Entropy { temperature } => {
            run(&Cuda { device: &z.device }, Loss::Entropy { temperature: *temperature })
        }
    }
}

/// Multiplies `x`, which no other tensor shares, by the scalar `factor`; neither leaves the device.
///
/// # Errors
/// As for [`rms_norm`].
pub(in crate::ops) fn scale(x: &Tensor, factor: &Tensor) -> Result<()> {
    x.inplace_op2(&factor.to_dtype(DType::F32)?, &Scale)
}

struct Scale;

impl InplaceOp2 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("this kernel runs on CUDA")
    }

    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        xl: &Layout,
        factor: &CudaStorage,
        fl: &Layout,
    ) -> Result<()> {
        let (device, size) = (x.device.clone(), (xl.shape().elem_count(), x.dtype()));
        let mut x = Buffer::of_mut(x, xl)?;
        gate::scale(&Cuda { device: &device }, &mut x, &Buffer::of(factor, fl)?, size)
    }
}

/// Causal softmax of scores of shape ... x rows x keys.
pub(in crate::ops) struct CausalSoftmax(pub(in crate::ops) Causal);

impl CausalSoftmax {
    fn of(&self, layout: &Layout, dtype: DType) -> Result<Softmax> {
        let keys = layout.shape().dim(D::Minus1)?;
        let rows = layout.shape().elem_count() / keys.max(1);
        Ok(Softmax { causal: self.0, rows, keys, dtype })
    }

    /// Returns the gradient of `s` for the gradient `dp` of its softmax.
    ///
    /// # Errors
    /// Operands that are not contiguous; a launch that fails.
    pub(in crate::ops) fn backward(&self, s: &Tensor, dp: &Tensor) -> Result<Tensor> {
        let softmax = self.of(s.layout(), s.dtype())?;
        with_buffers(&[s, dp], |cuda, b| {
            softmax.backward(cuda, &b[0], &b[1])?.into_tensor(s.shape())
        })
    }
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal_softmax"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("this kernel runs on CUDA")
    }

    fn cuda_fwd(&self, s: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let softmax = self.of(layout, s.dtype())?;
        let p = softmax.forward(&Cuda { device: &s.device }, &Buffer::of(s, layout)?)?;
        Ok((p.into_storage()?, layout.shape().clone()))
    }

    fn bwd(&self, s: &Tensor, _: &Tensor, dp: &Tensor) -> Result<Option<Tensor>> {
        self.backward(s, dp).map(Some)
    }
}
