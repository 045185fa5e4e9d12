//! Causal softmax: `p[i, j] = softmax_j(scale * s[i, j])` over the positions `j` visible to `i`,
//! with the kernel of `kernels` or in candle's operations, and what attention without a fused
//! kernel shares with it.

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::inject_gradient::inject_gradient;

/// What masks add to scores that do not count. It is finite, as Metal's fast arithmetic has no
/// infinities.
pub(crate) const HIDDEN: f32 = -1e30;

/// The positions visible to a query: those up to its own, at most `window` of them.
#[derive(Clone, Copy, Debug)]
pub struct Causal {
    /// The factor of the scores.
    pub scale: f64,
    /// The position of the first query (earlier keys come from a cache).
    pub start: usize,
    /// The number of visible positions, including the query's own.
    pub window: Option<usize>,
    /// The number of queries per head; rows repeat with this period.
    pub queries: usize,
}

impl Causal {
    /// Returns the range of keys visible to row `row`, out of `keys`.
    fn seen(&self, row: usize, keys: usize) -> std::ops::Range<usize> {
        let position = self.start + row % self.queries;
        let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
        first..(position + 1).min(keys)
    }

    /// Returns 0 where a key is visible to a query and a number far below any score elsewhere:
    /// queries x keys. It is finite, as Metal's fast arithmetic leaves infinities undefined. Only
    /// the ranges go to the device; the mask is made there.
    pub(super) fn mask(&self, keys: usize, device: &Device, dtype: DType) -> Result<Tensor> {
        let ranges = (0..self.queries).map(|row| self.seen(row, keys));
        let bounds = |of: fn(&std::ops::Range<usize>) -> usize| {
            let bounds = ranges.clone().map(|range| of(&range) as u32).collect();
            Tensor::from_vec(bounds, (self.queries, 1), device)
        };
        let places = Tensor::arange(0u32, keys as u32, device)?.reshape((1, keys))?;
        let shape = (self.queries, keys);
        let (places, end) = (places.broadcast_as(shape)?, bounds(|range| range.end)?);
        let mut visible = places.lt(&end.broadcast_as(shape)?)?;
        if self.window.is_some() {
            let start = bounds(|range| range.start)?;
            visible = (visible * places.ge(&start.broadcast_as(shape)?)?)?;
        }
        let shown = Tensor::zeros(shape, dtype, device)?;
        let hidden = Tensor::full(HIDDEN, shape, device)?.to_dtype(dtype)?;
        visible.where_cond(&shown, &hidden)
    }
}

/// Returns attention weights for scores of shape ... x (heads * queries) x keys. Half precision is
/// computed in f32.
///
/// # Errors
/// The number of rows is not a multiple of `causal.queries`.
pub fn causal_softmax(scores: &Tensor, causal: Causal) -> Result<Tensor> {
    let rows = scores.dim(D::Minus2)?;
    if causal.queries == 0 || !rows.is_multiple_of(causal.queries) {
        candle_core::bail!(
            "causal_softmax: {rows} rows are not a multiple of {} queries",
            causal.queries
        );
    }
    #[cfg(feature = "cuda")]
    if super::kernels::has_kernels(&[scores]) {
        let op = super::kernels::on_cuda::CausalSoftmax(causal);
        return scores.contiguous()?.apply_op1(op);
    }
    let (shape, keys) = (scores.shape(), scores.dim(D::Minus1)?);
    let wide = if scores.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let mask = causal.mask(keys, scores.device(), wide)?;
    let s = scores.reshape(((), causal.queries, keys))?.to_dtype(wide)?;
    let s = (s * causal.scale)?.broadcast_add(&mask)?;
    let (p, _) = softmax(s)?;
    p.to_dtype(scores.dtype())?.reshape(shape)
}

/// Returns the gradient of `scores` for the gradient `dp` of the weights that [`causal_softmax`]
/// makes of them.
///
/// # Errors
/// As for [`causal_softmax`].
pub(super) fn causal_softmax_backward(
    scores: &Tensor,
    dp: &Tensor,
    causal: Causal,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if super::kernels::has_kernels(&[scores, dp]) {
        return super::kernels::on_cuda::CausalSoftmax(causal)
            .backward(&scores.contiguous()?, &dp.contiguous()?);
    }
    let scores = Var::from_tensor(scores)?;
    let p = causal_softmax(scores.as_tensor(), causal)?;
    let ds = inject_gradient(&p, dp)?.backward()?.remove(scores.as_tensor());
    ds.ok_or_else(|| candle_core::Error::msg("attention: scores without gradient"))
}

/// Returns the softmax of the last dimension, and `log(sum(exp(scores)))` (... x 1).
pub(super) fn softmax(scores: Tensor) -> Result<(Tensor, Tensor)> {
    let top = scores.max_keepdim(D::Minus1)?.detach();
    let mut p = scores.broadcast_sub(&top)?;
    // As large as the result: freed early, like every step before it.
    drop(scores);
    p = p.exp()?;
    let sum = p.sum_keepdim(D::Minus1)?;
    Ok((p.broadcast_div(&sum)?, (top + sum.log()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random, values};

    /// The same computation, row by row.
    fn by_rows(s: &Tensor, causal: Causal) -> Tensor {
        let keys = s.dim(D::Minus1).unwrap();
        let scores = values(s);
        let rows = scores.chunks(keys).enumerate().flat_map(|(row, s)| {
            let seen = causal.seen(row, keys);
            let weight =
                |j: usize| if seen.contains(&j) { (causal.scale * s[j]).exp() } else { 0.0 };
            let sum: f64 = (0..keys).map(weight).sum();
            (0..keys).map(|j| weight(j) / sum).collect::<Vec<_>>()
        });
        Tensor::from_vec(rows.collect(), s.shape(), s.device()).unwrap()
    }

    #[test]
    fn agrees_row_by_row_and_with_finite_differences() {
        for (start, window) in [(0, None), (2, None), (2, Some(3))] {
            let causal = Causal { scale: 0.7, start, window, queries: 4 };
            let s = random(&[2, 8, 4 + start], 1);
            agrees(&causal_softmax(&s, causal).unwrap(), &by_rows(&s, causal));
            differentiates(&[s], |v| causal_softmax(&v[0], causal));
        }
    }
}
