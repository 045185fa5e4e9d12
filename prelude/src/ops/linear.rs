//! `y = x W^T`, with a backward pass that makes both gradients contiguous: `dx = dy W`, `dW = dy^T
//! x`.

use candle_core::WithDType;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Device, Layout, MetalStorage, Result,
    Shape, Tensor,
};

use crate::device::is_composed;

use half::bf16;

use super::half_weight::product_with_half;
use super::product::{Matrix, new_product};
use super::{Gradient, Real, elements, is_fused, with_elements, with_real};

/// A product whose weight is an ordinary operand.
struct Linear;

/// A product that owns its weight and accumulates the weight's gradient elsewhere.
struct LinearInto {
    weight: Tensor,
    gradient: Gradient,
}

/// [`forward`] on the CPU, without zero-filling the result first as candle does.
fn cpu_forward(
    x: &CpuStorage,
    xl: &Layout,
    w: &CpuStorage,
    wl: &Layout,
) -> Result<(CpuStorage, Shape)> {
    if is_composed(&Device::Cpu) || !matches!(x.dtype(), DType::F32 | DType::F64) {
        return forward(x, xl, w, wl);
    }
    let ((rows, inner), (out, of_weight)) = (xl.shape().dims2()?, wl.shape().dims2()?);
    if x.dtype() == DType::F32 && w.dtype() == DType::BF16 && inner == of_weight {
        let y = product_with_half(elements::<f32>(x, xl)?, elements::<bf16>(w, wl)?, inner)?;
        return Ok((CpuStorage::F32(y), Shape::from((rows, out))));
    }
    with_real!(x, T => {
        let x = Matrix::new(elements::<T>(x, xl)?, rows, inner, inner);
        let w = Matrix::new(elements::<T>(w, wl)?, out, inner, inner);
        Ok((T::to_cpu_storage_owned(new_product(x, w.t())), Shape::from((rows, out))))
    })
}

/// Computes `dy W`.
fn backward(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    fn fused<T: Real>(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        let ((rows, out), (_, inner)) = (dy.dims2()?, w.dims2()?);
        let dx = with_elements([dy, w], |[dy, w]: [&[T]; 2]| {
            Ok(new_product(Matrix::new(dy, rows, out, out), Matrix::new(w, out, inner, inner)))
        })?;
        Tensor::from_vec(dx, (rows, inner), dy.device())
    }
    match (is_fused(dy), dy.dtype()) {
        (true, DType::F64) => fused::<f64>(dy, w),
        (true, _) => fused::<f32>(dy, w),
        (false, _) => dy.matmul(w),
    }
}

fn forward<S: BackendStorage>(x: &S, xl: &Layout, w: &S, wl: &Layout) -> Result<(S, Shape)> {
    let ((rows, inner), (out, _)) = (xl.shape().dims2()?, wl.shape().dims2()?);
    let y = x.matmul(w, (1, rows, out, inner), xl, &wl.transpose(0, 1)?)?;
    Ok((y, Shape::from((rows, out))))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        cpu_forward(x, xl, w, wl)
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        w: &CudaStorage,
        wl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        forward(x, xl, w, wl)
    }

    fn metal_fwd(
        &self,
        x: &MetalStorage,
        xl: &Layout,
        w: &MetalStorage,
        wl: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        forward(x, xl, w, wl)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = if x.track_op() { Some(backward(dy, w)?) } else { None };
        let dw = if w.track_op() { Some(dy.t()?.matmul(x)?) } else { None };
        Ok((dx, dw))
    }
}

/// Calls `forward` with the storage of the weight, which must be on the device of `x`.
macro_rules! with_weight {
    ($op:expr, $kind:ident, $forward:ident, $x:expr, $xl:expr) => {{
        let (storage, layout) = $op.weight.storage_and_layout();
        match &*storage {
            candle_core::Storage::$kind(w) => $forward($x, $xl, w, layout),
            _ => candle_core::bail!("linear: the weight is on another device"),
        }
    }};
}

impl CustomOp1 for LinearInto {
    fn name(&self) -> &'static str {
        "linear-into"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        with_weight!(self, Cpu, cpu_forward, x, xl)
    }

    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout) -> Result<(CudaStorage, Shape)> {
        with_weight!(self, Cuda, forward, x, xl)
    }

    fn metal_fwd(&self, x: &MetalStorage, xl: &Layout) -> Result<(MetalStorage, Shape)> {
        with_weight!(self, Metal, forward, x, xl)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        self.gradient.add_product(dy, x)?;
        Ok(Some(backward(dy, &self.weight)?))
    }
}

/// Returns `x` (... x in) times the transpose of `w` (out x in): ... x out. On the CPU, `w` may be
/// bf16 where `x` is f32, without gradients.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
/// let w = Tensor::new(&[[3f32, 4.0], [5.0, 6.0]], &Device::Cpu)?;
/// assert_eq!(dam_prelude::ops::linear(&x, &w)?.to_vec2::<f32>()?, [[11.0, 17.0]]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Dimensions or dtypes that do not match.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (x, dims) = rows(x, w)?;
    x.apply_op2(&w.contiguous()?, Linear)?.reshape(dims)
}

/// Like [`linear`], but the backward pass adds the weight's gradient to `gradient` instead of
/// creating a tensor. `x` must be tracked. The contents of `w` may change before the backward pass
/// if they are restored for it.
///
/// # Errors
/// As for `linear`.
pub fn linear_into(x: &Tensor, w: &Tensor, gradient: &Gradient) -> Result<Tensor> {
    let (x, dims) = rows(x, w)?;
    x.apply_op1(LinearInto { weight: w.contiguous()?.detach(), gradient: gradient.clone() })?
        .reshape(dims)
}

/// Returns `x` as rows, and the shape of its product with `w`.
fn rows(x: &Tensor, w: &Tensor) -> Result<(Tensor, Vec<usize>)> {
    let mut dims = x.dims().to_vec();
    let (out, inner) = w.dims2()?;
    match dims.last_mut() {
        Some(last) if *last == inner => *last = out,
        _ => candle_core::bail!("linear: {:?} does not fit a weight of {:?}", x.dims(), w.dims()),
    }
    Ok((x.reshape(((), inner))?.contiguous()?, dims))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn it_is_the_product_with_the_transpose() {
        let (x, w) = (random(&[2, 3, 4], 1), random(&[5, 4], 2));
        let expected =
            x.reshape((6, 4)).unwrap().matmul(&w.t().unwrap()).unwrap().reshape((2, 3, 5)).unwrap();
        agrees(&linear(&x, &w).unwrap(), &expected);
        assert!(linear(&x, &random(&[5, 3], 2)).is_err());
    }

    #[test]
    fn both_gradients_pass_finite_differences() {
        differentiates(&[random(&[2, 3, 4], 1), random(&[5, 4], 2)], |v| linear(&v[0], &v[1]));
    }

    #[test]
    fn a_gradient_adds_up_where_it_is_kept() {
        let (x, w, gradient) = (random(&[6, 4], 1), random(&[5, 4], 2), Gradient::default());
        for times in [1.0, 2.0] {
            let x = candle_core::Var::from_tensor(&x).unwrap();
            let grads = linear_into(x.as_tensor(), &w, &gradient)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            let ones =
                Tensor::ones((6, 5), candle_core::DType::F64, &candle_core::Device::Cpu).unwrap();
            agrees(grads.get(x.as_tensor()).unwrap(), &ones.matmul(&w).unwrap());
            let expected = (ones.t().unwrap().matmul(x.as_tensor()).unwrap() * times).unwrap();
            agrees(&gradient.total().unwrap(), &expected);
        }
        gradient.clear();
        assert!(gradient.total().is_none());
        gradient.add_product(&random(&[6, 5], 3), &x).unwrap();
        agrees(&gradient.total().unwrap(), &random(&[6, 5], 3).t().unwrap().matmul(&x).unwrap());
    }
}
