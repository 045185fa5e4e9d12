//! A pre-norm decoder of the llama kind, every operation of it differentiable.
//!
//! `x = embed(ids)`; per layer `x += attention(norm(x))`, `x += mlp(norm(x))`; `logits = W norm(x)`.
//! Sequences stand one after another: `x` is tokens x hidden, and only attention and positions know where
//! one ends.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::weights::Weights;
use crate::checkpoint::{Architecture, TensorSpec};
use crate::data::Batch;
use crate::error::Result;
use crate::ops::{Attention, RotaryTable, linear, linear_into, rms_norm, rotary, swiglu};

/// A decoder of `architecture` over `weights`.
pub struct Decoder<'a, W: Weights + ?Sized> {
    architecture: &'a Architecture,
    weights: &'a W,
}

/// Where packed tokens stand: the lengths of their sequences, and the angles of their positions.
pub struct Places {
    lengths: Vec<usize>,
    /// The position of every sequence's first token.
    start: usize,
    table: RotaryTable,
}

impl Places {
    /// Sequences of `lengths` tokens, each from position `start` on.
    pub fn new(architecture: &Architecture, lengths: &[usize], start: usize) -> Self {
        let positions = lengths.iter().flat_map(|n| start..start + n);
        let table = RotaryTable::new(&architecture.rope, architecture.head_dim, positions);
        Self { lengths: lengths.to_vec(), start, table }
    }
}

/// Keys and values of the positions of one sequence run so far, a pair a layer, each
/// positions x (key_value_heads * head_dim).
#[derive(Default)]
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
}

impl Cache {
    /// Positions it holds.
    pub fn len(&self) -> usize {
        self.layers.first().and_then(|(k, _)| k.dim(0).ok()).unwrap_or(0)
    }

    /// Whether nothing has been run with it yet.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Adds the keys and values of `layer` and gives back all of its.
    fn extend(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let all = match self.layers.get(layer) {
            Some((keys, values)) => (Tensor::cat(&[keys, &k], 0)?, Tensor::cat(&[values, &v], 0)?),
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

    /// Final hidden states, after the last norm, of a batch: tokens x hidden.
    ///
    /// # Errors
    /// A missing weight, or ids outside the vocabulary.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        self.run(&batch.ids, &Places::new(self.architecture, &batch.lengths, 0), None)
    }

    /// [`Decoder::hidden`] of the next tokens `ids` (u32) of the one sequence in `cache`.
    ///
    /// # Errors
    /// As for `hidden`.
    pub fn hidden_cached(&self, ids: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let places = Places::new(self.architecture, &[ids.dim(0)?], cache.len());
        self.run(ids, &places, Some(cache))
    }

    fn run(&self, ids: &Tensor, places: &Places, mut cache: Option<&mut Cache>) -> Result<Tensor> {
        let mut x = self.embed(ids)?;
        for layer in 0..self.architecture.layers {
            x = self.layer_cached(layer, &x, places, cache.as_deref_mut())?;
        }
        self.last_norm(&x)
    }

    /// [`Decoder::hidden`] of every one of `batches` by itself, so that a result does not depend on its
    /// company. A layer's weights are asked for once and held only while it runs.
    ///
    /// # Errors
    /// As for `hidden`.
    pub fn hidden_each(&self, batches: &[Batch]) -> Result<Vec<Tensor>> {
        let a = self.architecture;
        let mut states = batches.iter().map(|b| self.embed(&b.ids)).collect::<Result<Vec<_>>>()?;
        let places: Vec<Places> = batches.iter().map(|b| Places::new(a, &b.lengths, 0)).collect();
        let specs = a.tensors();
        for layer in 0..a.layers {
            let own = specs.iter().filter(|spec| spec.layer() == Some(layer));
            let held = own.map(|spec| Ok((spec.name.clone(), self.weights.weight(&spec.name)?)));
            let held = held.collect::<Result<BTreeMap<String, Tensor>>>()?;
            let decoder = Decoder::new(a, &held);
            for (x, places) in states.iter_mut().zip(&places) {
                *x = decoder.layer(layer, x, places)?;
            }
        }
        states.iter().map(|x| self.last_norm(x)).collect()
    }

    /// What the first layer is given for `ids` (u32): tokens x hidden.
    ///
    /// # Errors
    /// A missing weight, or ids outside the vocabulary.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.weights.rows(TensorSpec::EMBEDDING, ids)
    }

    /// Layer `layer` on `x` (tokens x hidden).
    ///
    /// # Errors
    /// A missing weight.
    pub fn layer(&self, layer: usize, x: &Tensor, places: &Places) -> Result<Tensor> {
        self.layer_cached(layer, x, places, None)
    }

    /// The norm after the last layer.
    ///
    /// # Errors
    /// A missing weight.
    pub fn last_norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm(x, "model.norm")
    }

    /// The output layer: `hidden` (tokens x hidden) to logits (tokens x vocabulary).
    ///
    /// # Errors
    /// A missing weight.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.linear(hidden, self.architecture.output(), None)
    }

    fn layer_cached(&self, layer: usize, x: &Tensor, places: &Places, cache: Option<&mut Cache>) -> Result<Tensor> {
        let h = self.norm(x, &format!("model.layers.{layer}.input_layernorm"))?;
        let x = (x + self.attention(&h, layer, places, cache)?)?;
        let h = self.norm(&x, &format!("model.layers.{layer}.post_attention_layernorm"))?;
        Ok((&x + self.mlp(&h, layer)?)?)
    }

    fn attention(&self, x: &Tensor, layer: usize, places: &Places, cache: Option<&mut Cache>) -> Result<Tensor> {
        let a = self.architecture;
        let tokens = x.dim(0)?;
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}_proj");
        let bias = |part: &str| a.qkv_bias.then(|| format!("{}.bias", name(part)));
        let project = |part: &str| self.linear(x, &format!("{}.weight", name(part)), bias(part).as_deref());
        let turned = |part: &str, heads: usize| -> Result<Tensor> {
            let heads = project(part)?.reshape((tokens, heads, a.head_dim))?;
            Ok(rotary(&heads, &places.table)?.flatten_from(1)?)
        };
        let (q, mut k, mut v) = (turned("q", a.heads)?, turned("k", a.key_value_heads)?, project("v")?);
        if let Some(cache) = cache {
            (k, v) = cache.extend(layer, k, v)?;
        }
        let attention = Attention {
            heads: a.heads,
            key_value_heads: a.key_value_heads,
            scale: (a.head_dim as f64).sqrt().recip(),
            window: a.sliding_window.filter(|_| layer >= a.sliding_from),
            soft_cap: None,
        };
        let y = attention.run(&q, &k, &v, &places.lengths, places.start)?;
        let bias = a.output_bias.then(|| format!("{}.bias", name("o")));
        self.linear(&y, &format!("{}.weight", name("o")), bias.as_deref())
    }

    fn mlp(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let project = |x: &Tensor, part: &str| {
            let name = format!("model.layers.{layer}.mlp.{part}_proj");
            let bias = self.architecture.mlp_bias.then(|| format!("{name}.bias"));
            self.linear(x, &format!("{name}.weight"), bias.as_deref())
        };
        project(&swiglu(&project(x, "gate")?, &project(x, "up")?)?, "down")
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        Ok(rms_norm(x, &self.weights.weight(&format!("{name}.weight"))?, self.architecture.norm_eps)?)
    }

    fn linear(&self, x: &Tensor, weight: &str, bias: Option<&str>) -> Result<Tensor> {
        let w = self.weights.weight(weight)?;
        let y = match self.weights.gradient(weight).filter(|_| x.track_op()) {
            Some(gradient) => linear_into(x, &w, gradient)?,
            None => linear(x, &w)?,
        };
        let Some(bias) = bias else { return Ok(y) };
        Ok(y.broadcast_add(&self.weights.weight(bias)?)?)
    }
}
