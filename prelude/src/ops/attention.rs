//! Causal softmax: `p[i, j] = softmax_j(scale * s[i, j])` over the positions `j` that `i` may see.
//!
//! Backward: `ds = scale * p * (dp - sum_j p dp)`; positions that are not seen get nothing.

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, WithDType};

use super::{Real, elements, for_rows, is_fused, with_elements, with_real};

/// Which positions a query sees: those up to its own, at most `window` of them.
#[derive(Clone, Copy, Debug)]
pub struct Causal {
    /// What scores are multiplied by.
    pub scale: f64,
    /// The position of the first query (keys before it come from a cache).
    pub start: usize,
    /// Positions seen, the query's own included.
    pub window: Option<usize>,
    /// Queries a head; rows go round this number.
    pub queries: usize,
}

impl Causal {
    /// The keys that row `row` sees, of `keys` in all.
    fn seen(&self, row: usize, keys: usize) -> std::ops::Range<usize> {
        let position = self.start + row % self.queries;
        let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
        first..(position + 1).min(keys)
    }

    fn mask(&self, keys: usize, device: &Device, dtype: DType) -> Result<Tensor> {
        let rows = (0..self.queries).flat_map(|row| {
            let seen = self.seen(row, keys);
            (0..keys).map(move |j| if seen.contains(&j) { 0f32 } else { f32::NEG_INFINITY })
        });
        Tensor::from_vec(rows.collect(), (self.queries, keys), &Device::Cpu)?.to_device(device)?.to_dtype(dtype)
    }
}

impl CustomOp1 for Causal {
    fn name(&self) -> &'static str {
        "causal_softmax"
    }

    fn cpu_fwd(&self, s: &CpuStorage, sl: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(s, T => {
            let keys = sl.shape().dims()[sl.shape().rank() - 1];
            let scale = <T as WithDType>::from_f64(self.scale);
            let s = elements::<T>(s, sl)?;
            let mut p = vec![T::default(); s.len()];
            for_rows(&mut p, keys, |row, p| {
                let seen = self.seen(row, keys);
                softmax(&s[row * keys..][seen.clone()], scale, &mut p[seen]);
            });
            Ok((T::to_cpu_storage_owned(p), sl.shape().clone()))
        })
    }

    fn bwd(&self, _: &Tensor, p: &Tensor, dp: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(match p.dtype() {
            DType::F64 => backward::<f64>(self.scale, p, dp)?,
            _ => backward::<f32>(self.scale, p, dp)?,
        }))
    }
}

#[inline(always)]
fn softmax<T: Real>(s: &[T], scale: T, p: &mut [T]) {
    let top = s.iter().fold(T::neg_infinity(), |top, s| num_traits::Float::max(top, *s * scale));
    let mut sum = T::zero();
    for (p, s) in p.iter_mut().zip(s) {
        *p = (*s * scale - top).exp_fast();
        sum += *p;
    }
    p.iter_mut().for_each(|p| *p /= sum);
}

fn backward<T: Real>(scale: f64, p: &Tensor, dp: &Tensor) -> Result<Tensor> {
    let keys = p.dim(D::Minus1)?;
    with_elements([p, dp], |[ps, dps]: [&[T]; 2]| {
        let mut ds = vec![T::default(); ps.len()];
        for_rows(&mut ds, keys, |row, ds| {
            let (p, dp) = (&ps[row * keys..][..keys], &dps[row * keys..][..keys]);
            let mean = p.iter().zip(dp).map(|(p, dp)| *p * *dp).sum::<T>();
            for ((ds, p), dp) in ds.iter_mut().zip(p).zip(dp) {
                *ds = <T as WithDType>::from_f64(scale) * *p * (*dp - mean);
            }
        });
        Tensor::from_vec(ds, p.shape(), p.device())
    })
}

/// Attention weights for scores of shape ... x (heads * queries) x keys.
///
/// # Errors
/// Rows that are not a multiple of `causal.queries`.
pub fn causal_softmax(scores: &Tensor, causal: Causal) -> Result<Tensor> {
    let rows = scores.dim(D::Minus2)?;
    if causal.queries == 0 || !rows.is_multiple_of(causal.queries) {
        candle_core::bail!("causal_softmax: {rows} rows are not a multiple of {} queries", causal.queries);
    }
    if is_fused(scores) {
        return scores.contiguous()?.apply_op1(causal);
    }
    composed(scores, causal)
}

fn composed(scores: &Tensor, causal: Causal) -> Result<Tensor> {
    let (shape, keys) = (scores.shape(), scores.dim(D::Minus1)?);
    let mask = causal.mask(keys, scores.device(), scores.dtype())?;
    let s = (scores.reshape(((), causal.queries, keys))? * causal.scale)?.broadcast_add(&mask)?;
    let e = s.broadcast_sub(&s.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        for (start, window) in [(0, None), (2, None), (2, Some(3))] {
            let causal = Causal { scale: 0.7, start, window, queries: 4 };
            let s = random(&[2, 8, 4 + start], 1);
            agrees(&causal_softmax(&s, causal).unwrap(), &composed(&s, causal).unwrap());
            differentiates(&[s], |v| causal_softmax(&v[0], causal));
        }
    }
}
