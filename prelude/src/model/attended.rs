//! The attention heads of a layer: of packed sequences, of sequences that share their first tokens,
//! and of the next tokens of sequences in caches.

use candle_core::Tensor;
use rayon::prelude::*;

use super::cache::Cache;
use super::decoder::Decoder;
use super::positions::Positions;
use super::weights::Weights;
use crate::checkpoint::{LayerAttention, QkNorm};
use crate::error::Result;
use crate::ops::{Attention, rotary};

impl<W: Weights + ?Sized> Decoder<'_, W> {
    /// Runs the attention heads on `x`, without the output projection.
    pub(super) fn attended(
        &self,
        x: &Tensor,
        layer: usize,
        positions: &Positions,
        caches: &mut [Cache],
    ) -> Result<Tensor> {
        let a = self.architecture;
        let attention = self.architecture.attention[layer];
        let prefix = format!("model.layers.{layer}.self_attn");
        let (mut q, mut k, v) = self.queries_keys_values(x, &prefix)?;
        q = self.with_positions(&q, a.heads, &format!("{prefix}.q_norm"), attention, positions)?;
        k = self.with_positions(
            &k,
            a.key_value_heads,
            &format!("{prefix}.k_norm"),
            attention,
            positions,
        )?;
        let attention = Attention {
            heads: a.heads,
            key_value_heads: a.key_value_heads,
            scale: a.attention_scale,
            window: attention.window,
            soft_cap: a.attention_cap,
        };
        let qkv = [q, k, v];
        Ok(match (caches, positions.trunk) {
            ([], 0) => attention.run(&qkv[0], &qkv[1], &qkv[2], &positions.lengths, 0)?,
            ([], _) => branched(&attention, &qkv, positions)?,
            (caches, _) => continued(&attention, layer, &qkv, positions, caches)?,
        })
    }

    fn queries_keys_values(&self, x: &Tensor, prefix: &str) -> Result<(Tensor, Tensor, Tensor)> {
        let a = self.architecture;
        let project =
            |part: &str| self.linear_named(x, &format!("{prefix}.{part}_proj"), a.qkv_bias);
        if !a.fused_qkv {
            return Ok((project("q")?, project("k")?, project("v")?));
        }
        let all = project("qkv")?;
        let queries = a.heads * a.head_dim;
        let keys = a.key_value_heads * a.head_dim;
        let part = |start, width| all.narrow(1, start, width)?.contiguous();
        Ok((part(0, queries)?, part(queries, keys)?, part(queries + keys, keys)?))
    }

    /// Normalises and rotates queries or keys (tokens x (heads * head_dim)) as their layer
    /// requires.
    fn with_positions(
        &self,
        x: &Tensor,
        heads: usize,
        norm: &str,
        attention: LayerAttention,
        positions: &Positions,
    ) -> Result<Tensor> {
        let apart = |x: &Tensor| x.reshape((x.dim(0)?, heads, self.architecture.head_dim));
        let mut x = match self.architecture.qk_norm {
            QkNorm::None => apart(x)?,
            QkNorm::Heads => self.norm(&apart(x)?, norm)?,
            QkNorm::Whole => apart(&self.norm(x, norm)?)?,
        };
        if let Some(table) = attention.rope.and_then(|rope| positions.tables.get(rope)) {
            x = rotary(&x, table)?;
        }
        Ok(x.flatten_from(1)?)
    }
}

/// The attention of a trunk and its branches, each of which sees the trunk and itself.
fn branched(
    attention: &Attention,
    qkv: &[Tensor; 3],
    positions: &Positions,
) -> candle_core::Result<Tensor> {
    let Positions { trunk, lengths, .. } = positions;
    let part = |x: &Tensor, start: usize, length: usize| x.narrow(0, start, length);
    let [q, k, v] = qkv;
    let own = [part(q, 0, *trunk)?, part(k, 0, *trunk)?, part(v, 0, *trunk)?];
    let first = attention.run(&own[0], &own[1], &own[2], &[*trunk], 0)?;
    if lengths.is_empty() {
        return Ok(first);
    }
    let behind = |x: &Tensor| {
        let mut parts = Vec::with_capacity(2 * lengths.len());
        let mut at = *trunk;
        for length in lengths {
            parts.extend([part(x, 0, *trunk)?, part(x, at, *length)?]);
            at += length;
        }
        Tensor::cat(&parts, 0)
    };
    let q = part(q, *trunk, lengths.iter().sum())?;
    let rest = attention.run(&q, &behind(k)?, &behind(v)?, lengths, *trunk)?;
    Tensor::cat(&[first, rest], 0)
}

/// The attention of the next tokens of each sequence in a cache, which they are added to.
fn continued(
    attention: &Attention,
    layer: usize,
    qkv: &[Tensor; 3],
    positions: &Positions,
    caches: &mut [Cache],
) -> candle_core::Result<Tensor> {
    let Positions { lengths, starts, .. } = positions;
    let mut at = 0;
    let mut own = Vec::with_capacity(caches.len());
    for (i, cache) in caches.iter_mut().enumerate() {
        let [q, k, v] = qkv.each_ref().map(|x| x.narrow(0, at, lengths[i]));
        at += lengths[i];
        own.push((cache, q?, k?, v?, &lengths[i..=i], starts[i]));
    }
    let one =
        |(cache, q, k, v, length, start): (&mut Cache, Tensor, Tensor, Tensor, &[usize], usize)| {
            let (k, v) = cache.extend(layer, &k, &v)?;
            attention.run(&q, &k, &v, length, start)
        };
    let cpu = qkv[0].device().is_cpu();
    let results: candle_core::Result<Vec<Tensor>> = match own.len() {
        // A block of a few queries uses one core only.
        2.. if cpu => own.into_par_iter().map(one).collect(),
        _ => own.into_iter().map(one).collect(),
    };
    match results?.as_slice() {
        [only] => Ok(only.clone()),
        all => Tensor::cat(all, 0),
    }
}
