//! Attention of packed sequences, without padding: `out[i] = sum_j softmax_j(scale * q[i] . k[j])
//! v[j]` over the positions `j` of its own sequence visible to `i` (arXiv 1706.03762; grouped heads
//! share keys, arXiv 2305.13245).
//!
//! The backward pass recomputes the weights, a block of queries at a time, so memory grows linearly
//! with the number of tokens (as in arXiv 2205.14135). With `p` the weights and `dp = dout v^T`:
//! `ds = p * (dp - sum_j p dp)`, `dq = scale ds k`, `dk = scale ds^T q`, `dv = p^T dout`; a soft
//! cap `c tanh(s / c)` multiplies `ds` by `1 - tanh^2`.

mod composed;
mod fused;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};

use super::is_fused;
use composed::Blocks;

/// The parameters of attention.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub key_value_heads: usize,
    /// The factor of the scores.
    pub scale: f64,
    /// The number of visible positions, including the query's own; `None`: all earlier ones.
    pub window: Option<usize>,
    /// `c` of the soft cap `c tanh(s / c)` of the scores.
    pub soft_cap: Option<f64>,
}

/// Attention of given sequences.
struct Packed {
    attention: Attention,
    lengths: Vec<usize>,
    /// Keys before the first query.
    start: usize,
    dim: usize,
}

impl Packed {
    fn width(&self) -> usize {
        self.attention.heads * self.dim
    }

    fn keys_width(&self) -> usize {
        self.attention.key_value_heads * self.dim
    }

    fn group(&self) -> usize {
        self.attention.heads / self.attention.key_value_heads
    }

    /// Returns every sequence: its first query and key, and its number of queries.
    fn sequences(&self) -> Vec<(usize, usize, usize)> {
        let (mut query, mut key) = (0, 0);
        let place = |length: &usize| {
            let at = (query, key, *length);
            query += length;
            key += self.start + length;
            at
        };
        self.lengths.iter().map(place).collect()
    }

    /// Returns the keys (counted within the sequence) visible to `rows` queries from `position` on.
    fn seen(&self, position: usize, rows: usize) -> std::ops::Range<usize> {
        let first = self.attention.window.map_or(0, |w| (position + 1).saturating_sub(w));
        first..position + rows
    }
}

impl Attention {
    /// Returns the attention of sequences of `lengths` queries, one after another, of shape
    /// `(tokens, heads * dim)`. `q` has that shape too, `k` and `v` have `(keys, key_value_heads *
    /// dim)`, and every sequence has `start` keys (of a cache) before its first query.
    ///
    /// f32 and f64 are exact to rounding. In half precision, products are rounded to the dtype of
    /// the operands; the softmax, and the sums of gradients over blocks, are computed in f32.
    ///
    /// # Errors
    /// Shapes that do not match.
    pub fn run(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        lengths: &[usize],
        start: usize,
    ) -> Result<Tensor> {
        let packed = self.packed(q, k, v, lengths, start)?;
        if is_fused(q) {
            fused::attention(q, k, v, packed)
        } else {
            composed::attention(q, k, v, packed, Blocks::new(q, self.soft_cap))
        }
    }

    fn packed(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        lengths: &[usize],
        start: usize,
    ) -> Result<Packed> {
        let ((tokens, width), (keys, keys_width)) = (q.dims2()?, k.dims2()?);
        let (heads, kv) = (self.heads, self.key_value_heads);
        let fits = heads > 0
            && kv > 0
            && heads % kv == 0
            && width % heads == 0
            && keys_width == width / heads * kv;
        let long =
            tokens == lengths.iter().sum::<usize>() && keys == tokens + start * lengths.len();
        if !fits || !long || v.dims() != k.dims() || self.window == Some(0) {
            candle_core::bail!(
                "attention: {:?} and {:?} do not fit {self:?} of {lengths:?}",
                q.dims(),
                k.dims()
            );
        }
        Ok(Packed { attention: self.clone(), lengths: lengths.to_vec(), start, dim: width / heads })
    }
}
