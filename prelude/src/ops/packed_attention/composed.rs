//! Attention in candle's operations, for devices and dtypes without a kernel: a block of queries
//! at a time, with its weights recomputed in the backward pass (arXiv 2205.14135, with all the
//! keys of a query in one block). The forward pass keeps its operands, its output and, per query
//! and head, `log_sum = log sum_j exp(s[j])`, from which `p = exp(s - log_sum)`.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, D, DType, Device, Layout, MetalStorage, Result, Shape,
    Tensor,
};

use super::{Attention, Packed};
use crate::ops::attention::{Causal, causal_softmax, causal_softmax_backward, softmax};
use crate::ops::inject_gradient::copied;
use crate::ops::kernels::has_kernels;

/// How blocks are computed.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// The size in bytes of a block's scores, at most; a block has one query at least. A pass holds
    /// three to four tensors of this size.
    pub bound: usize,
    /// Whether [`causal_softmax`] masks and scales: in one pass over the scores where it has a
    /// kernel. It knows no soft cap.
    pub by_softmax: bool,
}

impl Blocks {
    /// Returns what suits the device of `q`.
    pub fn new(q: &Tensor, soft_cap: Option<f64>) -> Self {
        Self { bound: bound(q.device()), by_softmax: soft_cap.is_none() && has_kernels(&[q]) }
    }
}

/// Smaller blocks compute fewer of the scores above the diagonal, which are masked; larger ones
/// launch fewer operations. On a GPU with 3 TB/s, an operation on 64 MiB takes about 40 us, well
/// above its launch; with 32 heads, up to 724 tokens are one block. On a CPU, glibc reuses memory
/// of up to 32 MiB and returns more to the system, which costs more than the arithmetic.
fn bound(device: &Device) -> usize {
    if device.is_cpu() { 16 << 20 } else { 64 << 20 }
}

/// Consecutive queries of one sequence, and the keys visible to any of them.
#[derive(Clone, Copy)]
struct Block {
    query: usize,
    rows: usize,
    key: usize,
    keys: usize,
}

/// What both passes share. Rows of scores are ordered by head, then by query: the queries of a
/// group share their keys in one product per key-value head, without copies of keys.
struct Pass<'a> {
    packed: &'a Packed,
    q: Tensor,
    /// Keys and values by head: key-value heads x keys x dim.
    k: Tensor,
    v: Tensor,
    /// The dtype of scores and of sums over blocks.
    wide: DType,
    blocks: Blocks,
}

impl<'a> Pass<'a> {
    fn new(packed: &'a Packed, [q, k, v]: [&Tensor; 3], blocks: Blocks) -> Result<Self> {
        let kv = packed.attention.key_value_heads;
        let wide = if q.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let (k, v) = (heads_first(&k.detach(), kv)?, heads_first(&v.detach(), kv)?);
        Ok(Self { packed, q: q.detach(), k, v, wide, blocks })
    }

    /// Returns the number of queries per block of a sequence: its length, halved until the bound is
    /// kept.
    fn rows(&self, length: usize) -> usize {
        let (end, window) = (self.packed.start + length, self.packed.attention.window);
        let keys = |rows: usize| window.map_or(end, |w| end.min(w - 1 + rows));
        let dtype = if self.blocks.by_softmax { self.q.dtype() } else { self.wide };
        let row = self.packed.attention.heads * dtype.size_in_bytes();
        let mut rows = length.max(1);
        while rows > 1 && row * rows * keys(rows) > self.blocks.bound {
            rows = rows.div_ceil(2);
        }
        rows
    }

    /// Calls `f` with every block in turn, and its mask if it needs one: rows x keys.
    ///
    /// The keys of a block end with its last query, so the mask of a block is the lower right
    /// corner of that of any larger one: a sequence needs one, and later sequences share it if it
    /// is large enough.
    fn each(&self, mut f: impl FnMut(Block, Option<Tensor>) -> Result<()>) -> Result<()> {
        let window = self.packed.attention.window;
        let mut mask: Option<Tensor> = None;
        for (query, key, length) in self.packed.sequences() {
            let rows = self.rows(length);
            let blocks = (0..length).step_by(rows).map(|at| {
                let rows = rows.min(length - at);
                let seen = self.packed.seen(self.packed.start + at, rows);
                Block { query: query + at, rows, key: key + seen.start, keys: seen.len() }
            });
            let keys = blocks.clone().map(|block| block.keys).max().unwrap_or(0);
            let covers = |mask: &Tensor| mask.dims()[0] >= rows && mask.dims()[1] >= keys;
            let masks = rows > 1 && !self.blocks.by_softmax;
            if masks && !mask.as_ref().is_some_and(covers) {
                let causal = Causal { scale: 1.0, start: keys - rows, window, queries: rows };
                mask = Some(causal.mask(keys, self.q.device(), self.wide)?);
            }
            for block in blocks {
                // A single query sees every key of its block.
                let mask = mask.as_ref().filter(|_| block.rows > 1);
                f(block, mask.map(|mask| corner(mask, block)).transpose()?)?;
            }
        }
        Ok(())
    }

    /// Returns the rows of a block of `x` (tokens x (heads * dim)): key-value heads x (group *
    /// rows) x dim.
    fn rows_of(&self, x: &Tensor, block: Block) -> Result<Tensor> {
        let rows = heads_first(&x.narrow(0, block.query, block.rows)?, self.packed.attention.heads);
        self.grouped(rows?)
    }

    /// Returns heads x rows x n as key-value heads x (group * rows) x n.
    fn grouped(&self, x: Tensor) -> Result<Tensor> {
        let (_, rows, n) = x.dims3()?;
        x.reshape((self.packed.attention.key_value_heads, self.packed.group() * rows, n))
    }

    /// Returns key-value heads x (group * rows) x n as heads x rows x n, in the wide dtype.
    fn by_head(&self, x: Tensor, block: Block) -> Result<Tensor> {
        x.to_dtype(self.wide)?.reshape((self.packed.attention.heads, block.rows, ()))
    }

    /// Returns the keys or values of a block: key-value heads x keys x dim.
    fn keys_of(&self, x: &Tensor, block: Block) -> Result<Tensor> {
        x.narrow(1, block.key, block.keys)
    }

    /// Returns the products of queries and keys of a block: key-value heads x (group * rows) x
    /// keys.
    fn products(&self, q: &Tensor, block: Block) -> Result<Tensor> {
        q.matmul(&self.keys_of(&self.k, block)?.t()?)
    }

    /// Returns what a block's queries see of its keys.
    fn causal(&self, block: Block) -> Causal {
        let Attention { scale, window, .. } = self.packed.attention;
        Causal { scale, start: block.keys - block.rows, window, queries: block.rows }
    }

    /// Returns the scores of a block (heads x rows x keys), masked, and the `tanh` of their soft
    /// cap.
    fn scores(
        &self,
        q: &Tensor,
        block: Block,
        mask: Option<Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (scale, cap) = (self.packed.attention.scale, self.packed.attention.soft_cap);
        let mut s = self.by_head(self.products(q, block)?, block)?;
        s = (s * (scale / cap.unwrap_or(1.0)))?;
        let mut tanh = None;
        if let Some(cap) = cap {
            s = s.tanh()?;
            s = (&*tanh.insert(s) * cap)?;
        }
        if let Some(mask) = mask {
            s = s.broadcast_add(&mask)?;
        }
        Ok((s, tanh))
    }

    /// Returns the output, and `log_sum` of every block: heads x rows x 1.
    fn forward(&self) -> Result<(Tensor, Vec<Tensor>)> {
        let dtype = self.q.dtype();
        let out = Tensor::zeros(self.q.shape(), dtype, self.q.device())?;
        let mut log_sums = Vec::new();
        self.each(|block, mask| {
            let q = self.rows_of(&self.q, block)?;
            let p = if self.blocks.by_softmax {
                causal_softmax(&self.products(&q, block)?, self.causal(block))?
            } else {
                let (p, log_sum) = softmax(self.scores(&q, block, mask)?.0)?;
                log_sums.push(log_sum);
                self.grouped(p.to_dtype(dtype)?)?
            };
            let part = p.matmul(&self.keys_of(&self.v, block)?)?;
            out.slice_set(&tokens_first(&part, self.packed.attention.heads)?, 0, block.query)
        })?;
        Ok((out, log_sums))
    }

    /// Returns `dq`, `dk` and `dv`.
    fn backward(&self, log_sums: &[Tensor], out: &Tensor, dout: &Tensor) -> Result<[Tensor; 3]> {
        let (dtype, wide) = (self.q.dtype(), self.wide);
        let heads = self.packed.attention.heads;
        // The softmax that scales also scales its gradient.
        let scale = if self.blocks.by_softmax { 1.0 } else { self.packed.attention.scale };
        let keys_shape = (self.k.dim(1)?, self.packed.keys_width());
        let sum = || Tensor::zeros(keys_shape, wide, self.q.device());
        let dq = Tensor::zeros(self.q.shape(), dtype, self.q.device())?;
        let (dk, dv) = (sum()?, sum()?);
        let mut log_sums = log_sums.iter();
        self.each(|block, mask| {
            let [q, dout] = [&self.q, dout].map(|x| self.rows_of(x, block));
            let (q, dout) = (q?, dout?);
            let dp = || dout.matmul(&self.keys_of(&self.v, block)?.t()?);
            let ds = if self.blocks.by_softmax {
                let (causal, s) = (self.causal(block), self.products(&q, block)?);
                let p = causal_softmax(&s, causal)?;
                self.add(&dv, p.t()?.matmul(&dout)?, block)?;
                drop(p);
                causal_softmax_backward(&s, &dp()?, causal)?
            } else {
                let Some(log_sum) = log_sums.next() else {
                    candle_core::bail!("attention: a block has no sum")
                };
                let out = self.rows_of(out, block)?;
                // `sum_j p dp = dout . out`.
                let mean = (dout.to_dtype(wide)? * out.to_dtype(wide)?)?.sum_keepdim(D::Minus1)?;
                let (mut p, tanh) = self.scores(&q, block, mask)?;
                p = p.broadcast_sub(log_sum)?;
                p = p.exp()?;
                let weights = self.grouped(p.to_dtype(dtype)?)?;
                self.add(&dv, weights.t()?.matmul(&dout)?, block)?;
                drop(weights);
                let mut ds =
                    self.by_head(dp()?, block)?.broadcast_sub(&self.by_head(mean, block)?)?;
                ds = (ds * p)?;
                if let Some(tanh) = tanh {
                    let mut slope = tanh.sqr()?;
                    drop(tanh);
                    slope = slope.affine(-1.0, 1.0)?;
                    ds = (ds * slope)?;
                }
                self.grouped(ds.to_dtype(dtype)?)?
            };
            self.add(&dk, ds.t()?.matmul(&q)?, block)?;
            let part = ds.matmul(&self.keys_of(&self.k, block)?)?;
            let part = (part.to_dtype(wide)? * scale)?.to_dtype(dtype)?;
            dq.slice_set(&tokens_first(&part, heads)?, 0, block.query)
        })?;
        Ok([dq, (dk * scale)?.to_dtype(dtype)?, dv.to_dtype(dtype)?])
    }

    /// Adds `part` (key-value heads x keys x dim) to the rows of a block in `sum` (keys x
    /// (key-value heads * dim), wide).
    fn add(&self, sum: &Tensor, part: Tensor, block: Block) -> Result<()> {
        let part = tokens_first(&part, self.packed.attention.key_value_heads)?;
        let before = sum.narrow(0, block.key, block.keys)?;
        sum.slice_set(&(before + part.to_dtype(self.wide)?)?, 0, block.key)
    }
}

/// Returns the lower right corner of a mask that has the size of a block.
fn corner(mask: &Tensor, block: Block) -> Result<Tensor> {
    let (rows, keys) = mask.dims2()?;
    let mask = mask.narrow(0, rows - block.rows, block.rows)?;
    mask.narrow(1, keys - block.keys, block.keys)?.contiguous()
}

/// Returns tokens x (heads * dim) as heads x tokens x dim.
fn heads_first(x: &Tensor, heads: usize) -> Result<Tensor> {
    x.reshape((x.dim(0)?, heads, x.dim(1)? / heads))?.transpose(0, 1)?.contiguous()
}

/// Returns heads x tokens x dim, or groups of heads x (group * tokens) x dim, as tokens x (heads *
/// dim).
fn tokens_first(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (groups, rows, dim) = x.dims3()?;
    let tokens = groups * rows / heads;
    x.reshape((heads, tokens, dim))?.transpose(0, 1)?.contiguous()?.reshape((tokens, heads * dim))
}

/// An output that was made from its operands outside the graph, and its backward pass.
struct Made {
    packed: Packed,
    /// Until the graph takes it.
    out: Mutex<Option<Tensor>>,
    log_sums: Vec<Tensor>,
    blocks: Blocks,
}

impl Made {
    fn take(&self) -> Result<Tensor> {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner).take();
        out.ok_or_else(|| candle_core::Error::msg("attention: its output has been taken"))
    }
}

impl CustomOp3 for Made {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        copied!(&self.take()?, Cpu)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        copied!(&self.take()?, Cuda)
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        copied!(&self.take()?, Metal)
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let pass = Pass::new(&self.packed, [q, k, v], self.blocks)?;
        let [dq, dk, dv] = pass.backward(&self.log_sums, &out.detach(), dout)?;
        Ok((Some(dq), Some(dk), Some(dv)))
    }
}

/// Returns the attention of `packed`, in `blocks`.
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    packed: Packed,
    blocks: Blocks,
) -> Result<Tensor> {
    let (out, log_sums) = Pass::new(&packed, [q, k, v], blocks)?.forward()?;
    if [q, k, v].iter().any(|x| x.track_op()) {
        q.apply_op3(k, v, Made { packed, out: Mutex::new(Some(out)), log_sums, blocks })
    } else {
        Ok(out)
    }
}
