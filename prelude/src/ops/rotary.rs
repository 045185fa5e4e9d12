//! Rotary position embedding in the half-split layout of Hugging Face checkpoints (arXiv 2104.09864):
//! `y[k] = x[k] cos - x[k + d/2] sin`, `y[k + d/2] = x[k + d/2] cos + x[k] sin`.
//!
//! A rotation's backward is the rotation by the opposite angle.

use std::f64::consts::PI;

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, WithDType};

use super::{Real, elements, for_rows, is_fused, with_real};
use crate::checkpoint::{Rope, Scaling};

/// Cosines and sines of tokens' positions: each tokens x head_dim/2, f64, computed once.
#[derive(Clone)]
pub struct RotaryTable {
    cos: Vec<f64>,
    sin: Vec<f64>,
    half: usize,
}

impl RotaryTable {
    /// Angles of `positions`, one a token.
    pub fn new(rope: &Rope, head_dim: usize, positions: impl IntoIterator<Item = usize>) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f64> = (0..half).map(|k| frequency(rope, k, head_dim)).collect();
        let angles = positions.into_iter().flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let (sin, cos) = angles.map(f64::sin_cos).unzip();
        Self { cos, sin, half }
    }

    fn tensors(&self, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        let shape = (self.cos.len() / self.half, 1, self.half);
        let tensor = |x: &[f64]| Tensor::from_slice(x, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device);
        Ok((tensor(&self.cos)?, tensor(&self.sin)?))
    }
}

/// `theta^(-2k/d)`, stretched as the checkpoint says.
fn frequency(rope: &Rope, k: usize, head_dim: usize) -> f64 {
    let plain = rope.theta.powf(-2.0 * k as f64 / head_dim as f64);
    match rope.scaling {
        Scaling::None => plain,
        Scaling::Linear { factor } => plain / factor,
        Scaling::Llama3 { factor, low, high, original } => {
            let turns = original * plain / (2.0 * PI);
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            plain * (smooth + (1.0 - smooth) / factor)
        }
    }
}

struct Rotary {
    table: RotaryTable,
    heads: usize,
    /// 1 to turn, -1 to turn back.
    direction: f64,
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(x, T => {
            let y = rotate::<T>(elements(x, xl)?, &self.table, self.heads, self.direction);
            Ok((T::to_cpu_storage_owned(y), xl.shape().clone()))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let back = Rotary { table: self.table.clone(), heads: self.heads, direction: -self.direction };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

fn rotate<T: Real>(x: &[T], table: &RotaryTable, heads: usize, direction: f64) -> Vec<T> {
    let half = table.half;
    let cos: Vec<T> = table.cos.iter().map(|c| <T as WithDType>::from_f64(*c)).collect();
    let sin: Vec<T> = table.sin.iter().map(|s| <T as WithDType>::from_f64(s * direction)).collect();
    let mut y = vec![T::default(); x.len()];
    for_rows(&mut y, 2 * half, |row, y| {
        let (first, second) = x[row * 2 * half..][..2 * half].split_at(half);
        let (out_first, out_second) = y.split_at_mut(half);
        let at = row / heads * half;
        let (cos, sin) = (&cos[at..][..half], &sin[at..][..half]);
        for k in 0..half {
            out_first[k] = first[k] * cos[k] - second[k] * sin[k];
            out_second[k] = second[k] * cos[k] + first[k] * sin[k];
        }
    });
    y
}

/// Turns `x` (tokens x heads x head_dim) by the angles of `table`.
///
/// # Errors
/// Dimensions that do not fit the table.
pub fn rotary(x: &Tensor, table: &RotaryTable) -> Result<Tensor> {
    let (tokens, heads, dim) = x.dims3()?;
    if dim != 2 * table.half || tokens * table.half != table.cos.len() {
        candle_core::bail!("rotary: {:?} does not fit the table", x.dims());
    }
    if is_fused(x) {
        return x.contiguous()?.apply_op1(Rotary { table: table.clone(), heads, direction: 1.0 });
    }
    composed(x, table)
}

fn composed(x: &Tensor, table: &RotaryTable) -> Result<Tensor> {
    let (cos, sin) = table.tensors(x.dtype(), x.device())?;
    let (first, second) = (x.narrow(D::Minus1, 0, table.half)?, x.narrow(D::Minus1, table.half, table.half)?);
    let left = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let right = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[left, right], D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        let table = RotaryTable::new(&Rope { theta: 1e4, scaling: Scaling::None }, 6, [2, 3, 0, 1, 7]);
        let x = random(&[5, 3, 6], 1);
        agrees(&rotary(&x, &table).unwrap(), &composed(&x, &table).unwrap());
        differentiates(&[x], |v| rotary(&v[0], &table));
    }

    #[test]
    fn llama3_stretches_long_wavelengths_only() {
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let rope = Rope { theta: 500_000.0, scaling };
        // Wavelengths below 2048 positions stay, those above 8192 are divided by 8.
        let plain = |k: f64| 500_000f64.powf(-2.0 * k / 128.0);
        assert_eq!(frequency(&rope, 0, 128), 1.0);
        assert!((frequency(&rope, 20, 128) - plain(20.0)).abs() < 1e-15);
        assert!((frequency(&rope, 63, 128) - plain(63.0) / 8.0).abs() < 1e-15);
    }
}
