//! `y = x W^T`, whose backward makes both gradients contiguous: `dx = dy W`, `dW = dy^T x`.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Tensor};

struct Linear;

fn forward<S: BackendStorage>(x: &S, xl: &Layout, w: &S, wl: &Layout) -> Result<(S, Shape)> {
    let ((rows, inner), (out, _)) = (xl.shape().dims2()?, wl.shape().dims2()?);
    let y = x.matmul(w, (1, rows, out, inner), xl, &wl.transpose(0, 1)?)?;
    Ok((y, Shape::from((rows, out))))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(x, xl, w, wl)
    }

    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        forward(x, xl, w, wl)
    }

    fn metal_fwd(&self, x: &MetalStorage, xl: &Layout, w: &MetalStorage, wl: &Layout) -> Result<(MetalStorage, Shape)> {
        forward(x, xl, w, wl)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = if x.track_op() { Some(dy.matmul(w)?) } else { None };
        let dw = if w.track_op() { Some(dy.t()?.matmul(x)?) } else { None };
        Ok((dx, dw))
    }
}

/// `x` (... x in) times the transpose of `w` (out x in): ... x out.
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
/// Dimensions or dtypes that do not fit.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let (out, inner) = w.dims2()?;
    match dims.last_mut() {
        Some(last) if *last == inner => *last = out,
        _ => candle_core::bail!("linear: {:?} does not fit a weight of {:?}", x.dims(), w.dims()),
    }
    let x = x.reshape(((), inner))?.contiguous()?;
    x.apply_op2(&w.contiguous()?, Linear)?.reshape(dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn it_is_the_product_with_the_transpose() {
        let (x, w) = (random(&[2, 3, 4], 1), random(&[5, 4], 2));
        let expected = x.reshape((6, 4)).unwrap().matmul(&w.t().unwrap()).unwrap().reshape((2, 3, 5)).unwrap();
        agrees(&linear(&x, &w).unwrap(), &expected);
        assert!(linear(&x, &random(&[5, 3], 2)).is_err());
    }

    #[test]
    fn both_gradients_pass_finite_differences() {
        differentiates(&[random(&[2, 3, 4], 1), random(&[5, 4], 2)], |v| linear(&v[0], &v[1]));
    }
}
