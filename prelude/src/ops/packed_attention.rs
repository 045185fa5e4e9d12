//! Attention of packed sequences, without padding: `out[i] = sum_j softmax_j(scale * q[i] . k[j])
//! v[j]` over the positions `j` of its own sequence visible to `i` (arXiv 1706.03762; grouped heads
//! share keys, arXiv 2305.13245).
//!
//! The backward pass recomputes the weights, a block of queries at a time, so memory grows linearly
//! with the number of tokens (as in arXiv 2205.14135). With `p` the weights and `dp = dout v^T`:
//! `ds = p * (dp - sum_j p dp)`, `dq = scale ds k`, `dk = scale ds^T q`, `dv = p^T dout`; a soft
//! cap `c tanh(s / c)` multiplies `ds` by `1 - tanh^2`.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::product::{Into, Matrix, product};
use super::{
    Causal, Real, causal_softmax, elements, is_fused, max_of, sum_of, with_elements, with_real,
};

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

/// Queries per block.
const BLOCK: usize = 64;

struct Op {
    attention: Attention,
    lengths: Vec<usize>,
    /// Keys before the first query.
    start: usize,
    dim: usize,
}

/// Consecutive queries of one sequence, and the keys of that sequence.
#[derive(Clone, Copy)]
struct Block {
    /// The first query, and the first key of its sequence.
    query: usize,
    key: usize,
    /// The number of queries.
    rows: usize,
    /// The position of the first query in its sequence.
    position: usize,
}

/// Buffers for a block of scores, reused from block to block.
struct Scratch<T> {
    p: Vec<T>,
    dp: Vec<T>,
    slope: Vec<T>,
}

impl<T: Real> Scratch<T> {
    fn new() -> Self {
        Self { p: Vec::new(), dp: Vec::new(), slope: Vec::new() }
    }
}

impl Op {
    fn width(&self) -> usize {
        self.attention.heads * self.dim
    }

    fn keys_width(&self) -> usize {
        self.attention.key_value_heads * self.dim
    }

    fn group(&self) -> usize {
        self.attention.heads / self.attention.key_value_heads
    }

    /// Returns the blocks of a sequence of `length` queries from `query` on.
    fn blocks(&self, query: usize, key: usize, length: usize) -> impl Iterator<Item = Block> {
        let start = self.start;
        (0..length).step_by(BLOCK).map(move |at| Block {
            query: query + at,
            key,
            rows: BLOCK.min(length - at),
            position: start + at,
        })
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

    /// Returns the keys (counted within the sequence) visible to the block.
    fn seen(&self, block: Block) -> std::ops::Range<usize> {
        let first = self.attention.window.map_or(0, |w| (block.position + 1).saturating_sub(w));
        first..block.position + block.rows
    }

    /// Computes the weights of one block and head in `scratch.p`: rows x visible keys.
    #[inline(always)]
    fn weights<T: Real>(
        &self,
        block: Block,
        head: usize,
        q: &[T],
        k: &[T],
        scratch: &mut Scratch<T>,
    ) {
        let seen = self.seen(block);
        let n = seen.len();
        let q = Matrix::new(
            &q[block.query * self.width() + head * self.dim..],
            block.rows,
            self.dim,
            self.width(),
        );
        let at = (block.key + seen.start) * self.keys_width() + head / self.group() * self.dim;
        let k = Matrix::new(&k[at..], n, self.dim, self.keys_width());
        scratch.p.resize(block.rows * n, T::zero());
        product(q, k.t(), real(self.attention.scale), (&mut scratch.p, n), Into::Replace, false);
        if let Some(cap) = self.attention.soft_cap {
            let cap = real::<T>(cap);
            scratch.slope.resize(block.rows * n, T::zero());
            for (s, slope) in scratch.p.iter_mut().zip(&mut scratch.slope) {
                let tanh = (*s / cap).tanh_fast();
                *s = cap * tanh;
                *slope = T::one() - tanh * tanh;
            }
        }
        for (row, p) in scratch.p.chunks_mut(n).enumerate() {
            let position = block.position + row;
            let first = self.attention.window.map_or(0, |w| (position + 1).saturating_sub(w));
            let own = first - seen.start..position + 1 - seen.start;
            p[..own.start].fill(T::zero());
            p[own.end..].fill(T::zero());
            let own = &mut p[own];
            let top = max_of(own);
            own.iter_mut().for_each(|p| *p = (*p - top).exp_fast());
            let scale = sum_of([own], |[p]| p).recip();
            own.iter_mut().for_each(|p| *p *= scale);
        }
    }

    fn forward<T: Real>(&self, q: &[T], k: &[T], v: &[T]) -> Vec<T> {
        let mut out = vec![T::zero(); q.len()];
        let mut tasks = Vec::new();
        let mut rest = out.as_mut_slice();
        for (query, key, length) in self.sequences() {
            for block in self.blocks(query, key, length) {
                let (own, more) = rest.split_at_mut(block.rows * self.width());
                tasks.push((block, own));
                rest = more;
            }
        }
        let arch = pulp::Arch::new();
        tasks.into_par_iter().for_each_init(Scratch::new, |scratch, (block, out)| {
            arch.dispatch(|| {
                for head in 0..self.attention.heads {
                    self.weights(block, head, q, k, scratch);
                    let seen = self.seen(block);
                    let p = Matrix::new(&scratch.p, block.rows, seen.len(), seen.len());
                    let at = (block.key + seen.start) * self.keys_width()
                        + head / self.group() * self.dim;
                    let v = Matrix::new(&v[at..], seen.len(), self.dim, self.keys_width());
                    product(
                        p,
                        v,
                        T::one(),
                        (&mut out[head * self.dim..], self.width()),
                        Into::Replace,
                        false,
                    );
                }
            });
        });
        out
    }

    /// Returns `dq`, `dk` and `dv` of one sequence and key-value head, each row by row.
    fn head_backward<T: Real>(
        &self,
        (query, key, length): (usize, usize, usize),
        kv: usize,
        [q, k, v, dout]: [&[T]; 4],
        scratch: &mut Scratch<T>,
    ) -> [Vec<T>; 3] {
        let (dim, group, keys) = (self.dim, self.group(), self.start + length);
        let mut dq = vec![T::zero(); length * group * dim];
        let (mut dk, mut dv) = (vec![T::zero(); keys * dim], vec![T::zero(); keys * dim]);
        for block in self.blocks(query, key, length) {
            let seen = self.seen(block);
            let n = seen.len();
            let at = (block.key + seen.start) * self.keys_width() + kv * dim;
            let keys = Matrix::new(&k[at..], n, dim, self.keys_width());
            let values = Matrix::new(&v[at..], n, dim, self.keys_width());
            for head in kv * group..(kv + 1) * group {
                self.weights(block, head, q, k, scratch);
                let at = block.query * self.width() + head * dim;
                let queries = Matrix::new(&q[at..], block.rows, dim, self.width());
                let up = Matrix::new(&dout[at..], block.rows, dim, self.width());
                let p = Matrix::new(&scratch.p, block.rows, n, n);
                product(p.t(), up, T::one(), (&mut dv[seen.start * dim..], dim), Into::Add, false);
                scratch.dp.resize(block.rows * n, T::zero());
                product(up, values.t(), T::one(), (&mut scratch.dp, n), Into::Replace, false);
                for (p, dp) in scratch.p.chunks(n).zip(scratch.dp.chunks_mut(n)) {
                    let mean = sum_of([p, dp], |[p, dp]| p * dp);
                    dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = *p * (*dp - mean));
                }
                if self.attention.soft_cap.is_some() {
                    scratch.dp.iter_mut().zip(&scratch.slope).for_each(|(ds, slope)| *ds *= *slope);
                }
                let ds = Matrix::new(&scratch.dp, block.rows, n, n);
                let scale = real(self.attention.scale);
                let own = ((block.query - query) * group + head - kv * group) * dim;
                product(ds, keys, scale, (&mut dq[own..], group * dim), Into::Replace, false);
                product(
                    ds.t(),
                    queries,
                    scale,
                    (&mut dk[seen.start * dim..], dim),
                    Into::Add,
                    false,
                );
            }
        }
        [dq, dk, dv]
    }

    fn backward<T: Real>(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        dout: &Tensor,
    ) -> Result<[Tensor; 3]> {
        with_elements([q, k, v, dout], |slices: [&[T]; 4]| {
            let (heads, arch) = (self.attention.key_value_heads, pulp::Arch::new());
            let tasks = self
                .sequences()
                .into_iter()
                .flat_map(|s| (0..heads).map(move |kv| (s, kv)))
                .collect::<Vec<_>>();
            let one = |scratch: &mut Scratch<T>, (sequence, kv)| {
                (sequence, kv, arch.dispatch(|| self.head_backward(sequence, kv, slices, scratch)))
            };
            let parts: Vec<_> = tasks.into_par_iter().map_init(Scratch::new, one).collect();
            let [mut dq, mut dk, mut dv] =
                [slices[0], slices[1], slices[2]].map(|x| vec![T::zero(); x.len()]);
            for ((query, key, _), kv, [pq, pk, pv]) in parts {
                scatter(&mut dq, (query, self.width()), kv, &pq, self.group() * self.dim);
                scatter(&mut dk, (key, self.keys_width()), kv, &pk, self.dim);
                scatter(&mut dv, (key, self.keys_width()), kv, &pv, self.dim);
            }
            let tensor =
                |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
            Ok([tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?])
        })
    }
}

/// Writes the rows of `part`, `width` elements each, as column block `block` of `whole`, from row
/// `first` on.
fn scatter<T: Real>(
    whole: &mut [T],
    (first, stride): (usize, usize),
    block: usize,
    part: &[T],
    width: usize,
) {
    for (row, part) in whole[first * stride..].chunks_mut(stride).zip(part.chunks(width)) {
        row[block * width..][..width].copy_from_slice(part);
    }
}

#[inline(always)]
fn real<T: Real>(x: f64) -> T {
    <T as WithDType>::from_f64(x)
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(q, T => {
            let out = self.forward::<T>(elements(q, ql)?, elements(k, kl)?, elements(v, vl)?);
            Ok((T::to_cpu_storage_owned(out), ql.shape().clone()))
        })
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dq, dk, dv] = match q.dtype() {
            DType::F64 => self.backward::<f64>(q, k, v, dout)?,
            _ => self.backward::<f32>(q, k, v, dout)?,
        };
        Ok((Some(dq), Some(dk), Some(dv)))
    }
}

impl Attention {
    /// Returns the attention of sequences of `lengths` queries, one after another, of shape
    /// `(tokens, heads * dim)`. `q` has that shape too, `k` and `v` have `(keys, key_value_heads *
    /// dim)`, and every sequence has `start` keys (of a cache) before its first query.
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
        let op =
            Op { attention: self.clone(), lengths: lengths.to_vec(), start, dim: width / heads };
        if is_fused(q) {
            return q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op);
        }
        composed(&op, q, k, v)
    }
}

fn composed(op: &Op, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (a, kv, dim) = (&op.attention, op.attention.key_value_heads, op.dim);
    let heads_first = |x: Tensor| x.transpose(0, 1)?.contiguous();
    let one = |(query, key, length): (usize, usize, usize)| {
        let keys = op.start + length;
        let q = heads_first(q.narrow(0, query, length)?.reshape((length, a.heads, dim))?)?;
        let k = heads_first(k.narrow(0, key, keys)?.reshape((keys, kv, dim))?)?;
        let v = heads_first(v.narrow(0, key, keys)?.reshape((keys, kv, dim))?)?;
        // The queries of a group share keys: one product per key-value head, without repeating
        // keys.
        let q = q.reshape((kv, op.group() * length, dim))?;
        let (mut scores, mut scale) = (q.matmul(&k.t()?)?, a.scale);
        if let Some(cap) = a.soft_cap {
            scores = ((scores * (scale / cap))?.tanh()? * cap)?;
            scale = 1.0;
        }
        let causal = Causal { scale, start: op.start, window: a.window, queries: length };
        let out = causal_softmax(&scores, causal)?.matmul(&v)?.reshape((a.heads, length, dim))?;
        heads_first(out)?.reshape((length, a.heads * dim))
    };
    let parts = op.sequences().into_iter().map(one).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, D::Minus2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agrees, differentiates, random};

    fn attention(window: Option<usize>, soft_cap: Option<f64>) -> Attention {
        Attention { heads: 4, key_value_heads: 2, scale: 0.6, window, soft_cap }
    }

    #[test]
    fn agrees_with_its_composition_and_finite_differences() {
        for (window, soft_cap) in
            [(None, None), (Some(3), None), (None, Some(2.0)), (Some(2), Some(1.5))]
        {
            let (attention, lengths) = (attention(window, soft_cap), [5, 1, 3]);
            let inputs = [random(&[9, 12], 1), random(&[9, 6], 2), random(&[9, 6], 3)];
            let run = |v: &[Tensor]| attention.run(&v[0], &v[1], &v[2], &lengths, 0);
            let op =
                Op { attention: attention.clone(), lengths: lengths.to_vec(), start: 0, dim: 3 };
            agrees(
                &run(&inputs).unwrap(),
                &composed(&op, &inputs[0], &inputs[1], &inputs[2]).unwrap(),
            );
            differentiates(&inputs, run);
        }
    }

    /// More queries than a block, and keys before the first of them.
    #[test]
    fn blocks_and_earlier_keys_agree_with_the_composition() {
        for (window, start) in [(None, 0), (Some(70), 0), (None, 9), (Some(20), 9)] {
            let (attention, length) = (attention(window, None), 2 * BLOCK + 3);
            let inputs = [
                random(&[length, 8], 1),
                random(&[start + length, 4], 2),
                random(&[start + length, 4], 3),
            ];
            let op = Op { attention: attention.clone(), lengths: vec![length], start, dim: 2 };
            let found =
                attention.run(&inputs[0], &inputs[1], &inputs[2], &[length], start).unwrap();
            agrees(&found, &composed(&op, &inputs[0], &inputs[1], &inputs[2]).unwrap());
            let gradients = |fused: bool| {
                let vars = inputs.each_ref().map(|x| candle_core::Var::from_tensor(x).unwrap());
                let [q, k, v] = vars.each_ref().map(|v| v.as_tensor());
                let out = if fused {
                    attention.run(q, k, v, &[length], start)
                } else {
                    composed(&op, q, k, v)
                };
                let loss = (out.unwrap() * random(&[length, 8], 4)).unwrap().sum_all().unwrap();
                let grads = loss.backward().unwrap();
                [q, k, v].map(|x| grads.get(x).unwrap().clone())
            };
            for (fused, composed) in gradients(true).iter().zip(&gradients(false)) {
                agrees(fused, composed);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (q, k) = (random(&[4, 12], 1), random(&[4, 6], 2));
        assert!(attention(None, None).run(&q, &k, &k, &[2, 3], 0).is_err());
        assert!(attention(None, None).run(&q, &k, &k, &[4], 1).is_err());
        assert!(attention(None, None).run(&k, &q, &q, &[4], 0).is_err());
        assert!(attention(Some(0), None).run(&q, &k, &k, &[4], 0).is_err());
    }
}
