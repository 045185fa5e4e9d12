//! The kernel for CPUs: a block of queries and a head at a time, in both directions.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::Packed;
use crate::ops::product::{Into, Matrix, product};
use crate::ops::{Real, elements, max_of, sum_of, with_elements, with_real};
use crate::vectorised::vectorised;

/// Queries per block.
pub(super) const BLOCK: usize = 64;

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

impl Packed {
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
        let seen = self.seen(block.position, block.rows);
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
            let own = self.seen(position, 1);
            let own = own.start - seen.start..own.end - seen.start;
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
        tasks.into_par_iter().for_each_init(Scratch::new, |scratch, (block, out)| {
            vectorised(
                #[inline(always)]
                || {
                    for head in 0..self.attention.heads {
                        self.weights(block, head, q, k, scratch);
                        let seen = self.seen(block.position, block.rows);
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
                },
            );
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
            let seen = self.seen(block.position, block.rows);
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
            let heads = self.attention.key_value_heads;
            let tasks = self
                .sequences()
                .into_iter()
                .flat_map(|s| (0..heads).map(move |kv| (s, kv)))
                .collect::<Vec<_>>();
            let one = |scratch: &mut Scratch<T>, (sequence, kv)| {
                (
                    sequence,
                    kv,
                    vectorised(
                        #[inline(always)]
                        || self.head_backward(sequence, kv, slices, scratch),
                    ),
                )
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

impl CustomOp3 for Packed {
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

/// Returns the attention of `packed` (f32 or f64).
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, packed: Packed) -> Result<Tensor> {
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, packed)
}
