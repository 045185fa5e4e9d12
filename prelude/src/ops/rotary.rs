//! Rotary position embedding (arXiv 2104.09864): in the half-split layout of most Hugging Face
//! checkpoints, `y[k] = x[k] cos - x[k + d/2] sin`, `y[k + d/2] = x[k + d/2] cos + x[k] sin`, or in
//! the published layout, which pairs the neighbours `2k` and `2k + 1`.
//!
//! The backward pass is the rotation by the opposite angle.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{
    CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, WithDType,
};

use super::{Real, elements, for_rows, is_fused, with_real};
use crate::checkpoint::{Pairs, Rope};

/// The cosines and sines of token positions: each tokens x head_dim/2, f64, computed once.
#[derive(Clone)]
pub struct RotaryTable {
    cos: Vec<f64>,
    sin: Vec<f64>,
    half: usize,
    pairs: Pairs,
    /// The tensors of the last dtype and device, for composed operations.
    tensors: Arc<Mutex<Option<(Tensor, Tensor)>>>,
}

impl RotaryTable {
    /// Computes the angles of sequences, one after another, each at a range of positions.
    pub fn new(rope: &Rope, sequences: &[Range<usize>]) -> Self {
        let (half, factor) = (rope.dims / 2, rope.attention_factor());
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for positions in sequences {
            let frequency = |k| rope.frequency(k, positions.end);
            let frequencies: Vec<f64> = (0..half).map(frequency).collect();
            for position in positions.clone() {
                let angles = frequencies.iter().map(|f| (position as f64 * f).sin_cos());
                angles.for_each(|(s, c)| {
                    sin.push(s * factor);
                    cos.push(c * factor);
                });
            }
        }
        Self { cos, sin, half, pairs: rope.pairs, tensors: Arc::default() }
    }

    /// Returns cosines and sines, copied to the device once.
    fn tensors(&self, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        let mut last = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |(cos, _): &&(Tensor, Tensor)| cos.dtype() == dtype && cos.device().same_device(device);
        if let Some((cos, sin)) = last.as_ref().filter(fits) {
            return Ok((cos.clone(), sin.clone()));
        }
        let shape = (self.cos.len() / self.half, 1, self.half);
        let tensor = |x: &[f64]| {
            Tensor::from_slice(x, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        Ok(last.insert((tensor(&self.cos)?, tensor(&self.sin)?)).clone())
    }
}

struct Rotary {
    table: RotaryTable,
    heads: usize,
    /// 1 to rotate, -1 to rotate back.
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
        let back =
            Rotary { table: self.table.clone(), heads: self.heads, direction: -self.direction };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

fn rotate<T: Real>(x: &[T], table: &RotaryTable, heads: usize, direction: f64) -> Vec<T> {
    let half = table.half;
    let cos: Vec<T> = table.cos.iter().map(|c| <T as WithDType>::from_f64(*c)).collect();
    let sin: Vec<T> = table.sin.iter().map(|s| <T as WithDType>::from_f64(s * direction)).collect();
    let mut y = vec![T::default(); x.len()];
    for_rows(
        &mut y,
        2 * half,
        #[inline(always)]
        |row, y| {
            let x = &x[row * 2 * half..][..2 * half];
            let at = row / heads * half;
            let (cos, sin) = (&cos[at..][..half], &sin[at..][..half]);
            if table.pairs == Pairs::Neighbours {
                let (x, y) = (x.as_chunks::<2>().0, y.as_chunks_mut::<2>().0);
                for (k, (x, y)) in x.iter().zip(y).enumerate() {
                    *y = [x[0] * cos[k] - x[1] * sin[k], x[1] * cos[k] + x[0] * sin[k]];
                }
                return;
            }
            let ((first, second), (out_first, out_second)) =
                (x.split_at(half), y.split_at_mut(half));
            for k in 0..half {
                out_first[k] = first[k] * cos[k] - second[k] * sin[k];
                out_second[k] = second[k] * cos[k] + first[k] * sin[k];
            }
        },
    );
    y
}

/// Rotates `x` (tokens x heads x head_dim) by the angles of `table`: the first features of every
/// head, as many as the table covers.
///
/// # Errors
/// Dimensions that do not match the table.
pub fn rotary(x: &Tensor, table: &RotaryTable) -> Result<Tensor> {
    let (tokens, heads, dim) = x.dims3()?;
    if dim < 2 * table.half || tokens * table.half != table.cos.len() {
        candle_core::bail!("rotary: {:?} does not fit the table", x.dims());
    }
    if dim > 2 * table.half {
        let turned = rotary(&x.narrow(D::Minus1, 0, 2 * table.half)?.contiguous()?, table)?;
        return Tensor::cat(
            &[turned, x.narrow(D::Minus1, 2 * table.half, dim - 2 * table.half)?],
            D::Minus1,
        );
    }
    if is_fused(x) {
        return x.contiguous()?.apply_op1(Rotary { table: table.clone(), heads, direction: 1.0 });
    }
    composed(x, table)
}

fn composed(x: &Tensor, table: &RotaryTable) -> Result<Tensor> {
    let (cos, sin) = table.tensors(x.dtype(), x.device())?;
    let (first, second) = match table.pairs {
        Pairs::Halves => {
            (x.narrow(D::Minus1, 0, table.half)?, x.narrow(D::Minus1, table.half, table.half)?)
        }
        Pairs::Neighbours => {
            let pairs = x.reshape((x.dim(0)?, x.dim(1)?, table.half, 2))?;
            let one = |i: usize| pairs.narrow(D::Minus1, i, 1)?.squeeze(D::Minus1);
            (one(0)?, one(1)?)
        }
    };
    let left = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let right = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    match table.pairs {
        Pairs::Halves => Tensor::cat(&[left, right], D::Minus1),
        Pairs::Neighbours => Tensor::stack(&[left, right], D::Minus1)?.reshape(x.shape()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Scaling;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
            let table = RotaryTable::new(
                &Rope { theta: 1e4, dims: 6, scaling: Scaling::None, pairs },
                &[4..6, 4..7],
            );
            let x = random(&[5, 3, 6], 1);
            agrees(&rotary(&x, &table).unwrap(), &composed(&x, &table).unwrap());
            differentiates(&[x], |v| rotary(&v[0], &table));
            // Features beyond the table's are unchanged.
            let wide = random(&[5, 3, 8], 2);
            let turned = rotary(&wide, &table).unwrap();
            agrees(&turned.narrow(2, 6, 2).unwrap(), &wide.narrow(2, 6, 2).unwrap());
            differentiates(&[wide], |v| rotary(&v[0], &table));
        }
    }
}
