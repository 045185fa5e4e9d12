//! A pre-norm decoder of the llama kind, every operation of it differentiable.
//!
//! `x = embed(ids)`; per layer `x += attention(norm(x))`, `x += mlp(norm(x))`; `logits = W norm(x)`.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::weights::Weights;
use crate::checkpoint::{Architecture, Kind, TensorSpec};
use crate::error::Result;
use crate::ops::{Causal, RotaryTable, causal_softmax, linear, rms_norm, rotary, swiglu};

/// A decoder of `architecture` over `weights`.
pub struct Decoder<'a, W: Weights + ?Sized> {
    architecture: &'a Architecture,
    weights: &'a W,
}

/// Keys and values of the positions run so far, a pair a layer, each
/// batch x key_value_heads x positions x head_dim.
#[derive(Default)]
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
}

impl Cache {
    /// Positions it holds.
    pub fn len(&self) -> usize {
        self.layers.first().and_then(|(k, _)| k.dim(2).ok()).unwrap_or(0)
    }

    /// Whether nothing has been run with it yet.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Adds the keys and values of `layer` and gives back all of its.
    fn extend(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let all = match self.layers.get(layer) {
            Some((keys, values)) => (Tensor::cat(&[keys, &k], 2)?, Tensor::cat(&[values, &v], 2)?),
            None => (k, v),
        };
        self.layers.truncate(self.layers.len().max(layer));
        match self.layers.get_mut(layer) {
            Some(slot) => *slot = all.clone(),
            None => self.layers.push(all.clone()),
        }
        Ok(all)
    }
}

impl<'a, W: Weights + ?Sized> Decoder<'a, W> {
    /// Runs `weights`, whose names and shapes must be those of [`Architecture::tensors`].
    pub fn new(architecture: &'a Architecture, weights: &'a W) -> Self {
        Self { architecture, weights }
    }

    /// Final hidden states, after the last norm, of `ids` (batch x positions, u32): batch x positions x hidden.
    ///
    /// # Errors
    /// A missing weight, or ids outside the vocabulary.
    pub fn hidden(&self, ids: &Tensor) -> Result<Tensor> {
        self.run(ids, None)
    }

    /// [`Decoder::hidden`] of positions that follow those in `cache`.
    ///
    /// # Errors
    /// As for `hidden`.
    pub fn hidden_cached(&self, ids: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        self.run(ids, Some(cache))
    }

    /// The output layer: `hidden` (... x hidden) to logits (... x vocabulary).
    ///
    /// # Errors
    /// A missing weight.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(linear(hidden, &self.output()?)?)
    }

    /// The weight of the output layer: vocabulary x hidden.
    ///
    /// # Errors
    /// A missing weight.
    pub fn output(&self) -> Result<Tensor> {
        self.weights.weight(if self.architecture.tied { "model.embed_tokens.weight" } else { "lm_head.weight" })
    }

    /// [`Decoder::hidden`] of each of `all` (1 x positions, u32) by itself, so that a result does not
    /// depend on its company. Every weight is asked for once.
    ///
    /// # Errors
    /// As for `hidden`.
    pub fn hidden_each(&self, all: &[Tensor]) -> Result<Vec<Tensor>> {
        let a = self.architecture;
        let specs = a.tensors();
        let ask = |wanted: &dyn Fn(&TensorSpec) -> bool| -> Result<BTreeMap<String, Tensor>> {
            let names = specs.iter().filter(|spec| wanted(spec)).map(|spec| spec.name.clone());
            names.map(|name| Ok((name.clone(), self.weights.weight(&name)?))).collect()
        };
        let held = ask(&|spec| spec.kind == Kind::Embedding)?;
        let embed = Decoder::new(a, &held);
        let mut states = all.iter().map(|ids| embed.embed(ids)).collect::<Result<Vec<_>>>()?;
        let tables = all.iter().map(|ids| Ok(RotaryTable::new(&a.rope, a.head_dim, 0, ids.dim(1)?)));
        let tables = tables.collect::<Result<Vec<_>>>()?;
        for layer in 0..a.layers {
            let prefix = format!("model.layers.{layer}.");
            let held = ask(&|spec| spec.name.starts_with(&prefix))?;
            let decoder = Decoder::new(a, &held);
            for (x, table) in states.iter_mut().zip(&tables) {
                *x = decoder.layer(x, layer, table, 0, None)?;
            }
        }
        let held = ask(&|spec| spec.name == "model.norm.weight")?;
        let last = Decoder::new(a, &held);
        states.iter().map(|x| last.norm(x, "model.norm")).collect()
    }

    fn run(&self, ids: &Tensor, mut cache: Option<&mut Cache>) -> Result<Tensor> {
        let a = self.architecture;
        let start = cache.as_ref().map_or(0, |c| c.len());
        let table = RotaryTable::new(&a.rope, a.head_dim, start, ids.dim(1)?);
        let mut x = self.embed(ids)?;
        for layer in 0..a.layers {
            x = self.layer(&x, layer, &table, start, cache.as_deref_mut())?;
        }
        self.norm(&x, "model.norm")
    }

    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, positions) = ids.dims2()?;
        let embedding = self.weights.weight("model.embed_tokens.weight")?;
        Ok(embedding.index_select(&ids.flatten_all()?, 0)?.reshape((batch, positions, self.architecture.hidden))?)
    }

    fn layer(&self, x: &Tensor, layer: usize, table: &RotaryTable, start: usize, cache: Option<&mut Cache>) -> Result<Tensor> {
        let h = self.norm(x, &format!("model.layers.{layer}.input_layernorm"))?;
        let x = (x + self.attention(&h, layer, table, start, cache)?)?;
        let h = self.norm(&x, &format!("model.layers.{layer}.post_attention_layernorm"))?;
        Ok((&x + self.mlp(&h, layer)?)?)
    }

    fn attention(
        &self,
        x: &Tensor,
        layer: usize,
        table: &RotaryTable,
        start: usize,
        cache: Option<&mut Cache>,
    ) -> Result<Tensor> {
        let a = self.architecture;
        let (batch, positions, _) = x.dims3()?;
        let (kv, group) = (a.key_value_heads, a.heads / a.key_value_heads);
        let project = |name: &str, bias, heads| -> Result<Tensor> {
            let y = self.linear(x, &format!("model.layers.{layer}.self_attn.{name}_proj"), bias)?;
            Ok(y.reshape((batch, positions, heads, a.head_dim))?)
        };
        let heads_first = |x: Tensor| -> Result<Tensor> { Ok(x.transpose(1, 2)?.contiguous()?) };
        let q = heads_first(rotary(&project("q", a.qkv_bias, a.heads)?, table)?)?;
        let mut k = heads_first(rotary(&project("k", a.qkv_bias, kv)?, table)?)?;
        let mut v = heads_first(project("v", a.qkv_bias, kv)?)?;
        if let Some(cache) = cache {
            (k, v) = cache.extend(layer, k, v)?;
        }
        // The queries of a group share their keys: one product a key-value head, keys never repeated.
        let q = q.reshape((batch, kv, group * positions, a.head_dim))?;
        let causal = Causal {
            scale: (a.head_dim as f64).sqrt().recip(),
            start,
            window: a.sliding_window.filter(|_| layer >= a.sliding_from),
            queries: positions,
        };
        let p = causal_softmax(&q.matmul(&k.t()?)?, causal)?;
        let y = p.matmul(&v)?.reshape((batch, a.heads, positions, a.head_dim))?;
        let y = heads_first(y)?.reshape((batch, positions, a.heads * a.head_dim))?;
        self.linear(&y, &format!("model.layers.{layer}.self_attn.o_proj"), a.output_bias)
    }

    fn mlp(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let bias = self.architecture.mlp_bias;
        let project = |x: &Tensor, name: &str| self.linear(x, &format!("model.layers.{layer}.mlp.{name}_proj"), bias);
        project(&swiglu(&project(x, "gate")?, &project(x, "up")?)?, "down")
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        Ok(rms_norm(x, &self.weights.weight(&format!("{name}.weight"))?, self.architecture.norm_eps)?)
    }

    fn linear(&self, x: &Tensor, name: &str, bias: bool) -> Result<Tensor> {
        let y = linear(x, &self.weights.weight(&format!("{name}.weight"))?)?;
        if bias { Ok(y.broadcast_add(&self.weights.weight(&format!("{name}.bias"))?)?) } else { Ok(y) }
    }
}
