//! A pre-norm decoder of the Llama type; every operation is differentiable.
//!
//! `x = embed(ids)`; per layer `x += attention(norm(x))`, `x += mlp(norm(x))`; `logits = W
//! norm(x)`. Variants between families (norms of queries, keys and results, caps, scales) come from
//! the architecture. Sequences are packed: `x` is tokens x hidden, and only attention and positions
//! depend on sequence boundaries. Before every layer, a stop request is checked.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::cache::Cache;
use super::positions::Positions;
use super::weights::Weights;
use crate::checkpoint::{Architecture, LAYERS_AHEAD, TensorSpec};
use crate::data::Batch;
use crate::device::of_layer;
use crate::error::Result;
use crate::interrupt;
use crate::ops::{gated, is_fused, linear, linear_into, mlp, rms_norm, soft_cap};

/// A decoder of `architecture` with `weights`.
pub struct Decoder<'a, W: Weights + ?Sized> {
    pub(super) architecture: &'a Architecture,
    weights: &'a W,
}

/// The norm after the last layer.
const LAST_NORM: &str = "model.norm";

/// Half a layer: `x += after(last(inner(before(x))))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The attention.
    Attention,
    /// The MLP.
    Mlp,
}

impl Half {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Mlp];

    /// Returns the name of the norm on its input.
    pub fn norm_before(self, a: &Architecture) -> Option<&'static str> {
        match self {
            Half::Attention => a.norms.before_attention,
            Half::Mlp => a.norms.before_mlp,
        }
    }

    /// Returns the name of the norm on its output.
    pub fn norm_after(self, a: &Architecture) -> Option<&'static str> {
        match self {
            Half::Attention => a.norms.after_attention,
            Half::Mlp => a.norms.after_mlp,
        }
    }

    /// Returns the names of its first projections, which have the same input.
    pub fn first(self, a: &Architecture) -> &'static [&'static str] {
        match self {
            Half::Attention if a.fused_qkv => &["self_attn.qkv_proj"],
            Half::Attention => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            Half::Mlp if a.fused_gate_up => &["mlp.gate_up_proj"],
            Half::Mlp => &["mlp.gate_proj", "mlp.up_proj"],
        }
    }

    /// Returns the name of its last projection.
    pub fn last(self) -> &'static str {
        match self {
            Half::Attention => "self_attn.o_proj",
            Half::Mlp => "mlp.down_proj",
        }
    }
}

impl<'a, W: Weights + ?Sized> Decoder<'a, W> {
    /// Creates a decoder with `weights`, whose names and shapes must match
    /// [`Architecture::tensors`].
    pub fn new(architecture: &'a Architecture, weights: &'a W) -> Self {
        Self { architecture, weights }
    }

    /// Computes the final hidden states of a batch, after the final norm: tokens x hidden.
    ///
    /// # Errors
    /// A missing weight, ids outside the vocabulary, or
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        self.run(&batch.ids, &Positions::new(self.architecture, batch), &mut [])
    }

    /// Like [`Decoder::hidden`], for the next tokens of each sequence in `caches`: `lengths[i]` of
    /// `ids` (u32, all sequences one after another) for the one in `caches[i]`.
    ///
    /// # Errors
    /// As for `hidden`; not one length for each cache.
    pub fn hidden_cached(
        &self,
        ids: &Tensor,
        lengths: &[usize],
        caches: &mut [Cache],
    ) -> Result<Tensor> {
        let positions = Positions::after(self.architecture, lengths, caches)?;
        self.run(ids, &positions, caches)
    }

    fn run(&self, ids: &Tensor, positions: &Positions, caches: &mut [Cache]) -> Result<Tensor> {
        let mut x = self.embed(ids)?;
        for layer in 0..self.architecture.layers {
            x = self.layer_cached(layer, &x, positions, caches)?;
        }
        self.last_norm(&x)
    }

    /// Like [`Decoder::hidden`], for each of `batches` separately, so that no result depends on the
    /// other batches. Each weight is requested once, and a layer's are held only while the layer
    /// runs.
    ///
    /// # Errors
    /// As for `hidden`.
    pub fn hidden_each(&self, batches: &[Batch]) -> Result<Vec<Tensor>> {
        let a = self.architecture;
        let ids: Vec<&Tensor> = batches.iter().map(|b| &b.ids).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.embed(&Tensor::cat(&ids, 0)?)?;
        let mut end = 0;
        let own = |b: &Batch| {
            end += b.tokens();
            all.narrow(0, end - b.tokens(), b.tokens())
        };
        let mut states = batches.iter().map(own).collect::<candle_core::Result<Vec<_>>>()?;
        drop(all);
        let positions: Vec<Positions> = batches.iter().map(|b| Positions::new(a, b)).collect();
        (0..LAYERS_AHEAD).for_each(|layer| self.weights.read_ahead(layer));
        for layer in 0..a.layers {
            self.weights.read_ahead(layer + LAYERS_AHEAD);
            let own = a.layer_tensors(layer).into_iter();
            let held = own.map(|TensorSpec { name, .. }| {
                let weight = self.weights.weight(&name)?;
                Ok((name, weight))
            });
            let held = held.collect::<Result<BTreeMap<String, Tensor>>>()?;
            self.weights.copy_ahead(layer + 1);
            let decoder = Decoder::new(a, &held);
            for (x, positions) in states.iter_mut().zip(&positions) {
                *x = decoder.layer(layer, x, positions)?;
            }
            drop(held);
            self.weights.let_go(layer);
        }
        let norm = format!("{LAST_NORM}.weight");
        let held = BTreeMap::from([(norm.clone(), self.weights.weight(&norm)?)]);
        let decoder = Decoder::new(a, &held);
        states.into_iter().map(|x| decoder.last_norm(&x)).collect()
    }

    /// Computes the input of the first layer for `ids` (u32): tokens x hidden.
    ///
    /// # Errors
    /// A missing weight, or ids outside the vocabulary.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = self.weights.rows(TensorSpec::EMBEDDING, ids)?;
        let scale = self.architecture.embedding_scale;
        Ok(if scale == 1.0 { rows } else { (rows * scale)? })
    }

    /// Applies layer `layer` to `x` (tokens x hidden).
    ///
    /// # Errors
    /// A missing weight, or [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn layer(&self, layer: usize, x: &Tensor, positions: &Positions) -> Result<Tensor> {
        self.layer_cached(layer, x, positions, &mut [])
    }

    /// Applies the norm after the last layer.
    ///
    /// # Errors
    /// A missing weight.
    pub fn last_norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm(&x.to_device(&self.device(x, None))?, LAST_NORM)
    }

    /// Returns the device of layer `layer`, or of what is outside the layers, for a state `x`.
    fn device(&self, x: &Tensor, layer: Option<usize>) -> Device {
        of_layer(x.device(), layer, self.architecture.layers)
    }

    /// Applies the output layer: `hidden` (tokens x hidden) to logits (tokens x vocabulary).
    ///
    /// # Errors
    /// A missing weight, or [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        interrupt::check()?;
        capped(self.architecture, self.linear(hidden, self.architecture.output(), None)?)
    }

    fn layer_cached(
        &self,
        layer: usize,
        x: &Tensor,
        positions: &Positions,
        caches: &mut [Cache],
    ) -> Result<Tensor> {
        interrupt::check()?;
        let y = self.before(Half::Attention, layer, x)?;
        let y = self.attended(&y, layer, positions, caches)?;
        let x = self.after(Half::Attention, layer, x, &self.last(Half::Attention, layer, &y)?)?;
        let y = self.mlp(&self.before(Half::Mlp, layer, &x)?, layer)?;
        self.after(Half::Mlp, layer, &x, &y)
    }

    /// Returns the input of the first projections of half a layer: `x`, normalised if there is a
    /// norm.
    ///
    /// # Errors
    /// A missing weight.
    pub fn before(&self, half: Half, layer: usize, x: &Tensor) -> Result<Tensor> {
        let x = &x.to_device(&self.device(x, Some(layer)))?;
        match half.norm_before(self.architecture) {
            Some(norm) => self.norm(x, &format!("model.layers.{layer}.{norm}")),
            None => Ok(x.clone()),
        }
    }

    /// Returns the input of the last projection of half a layer, for the input `y` of its first
    /// projections: the heads' results, or the gated units.
    ///
    /// # Errors
    /// A missing weight.
    pub fn inner(
        &self,
        half: Half,
        layer: usize,
        y: &Tensor,
        positions: &Positions,
    ) -> Result<Tensor> {
        match half {
            Half::Attention => self.attended(y, layer, positions, &mut []),
            Half::Mlp => self.gated(y, layer),
        }
    }

    /// Applies the last projection of half a layer to its input `y`.
    ///
    /// # Errors
    /// A missing weight.
    pub fn last(&self, half: Half, layer: usize, y: &Tensor) -> Result<Tensor> {
        let a = self.architecture;
        let bias = if half == Half::Attention { a.output_bias } else { a.mlp_bias };
        self.linear_named(y, &format!("model.layers.{layer}.{}", half.last()), bias)
    }

    /// Adds the result `y` of half a layer to its input `x`.
    ///
    /// # Errors
    /// A missing weight.
    pub fn after(&self, half: Half, layer: usize, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let y = match half.norm_after(self.architecture) {
            Some(norm) => self.norm(y, &format!("model.layers.{layer}.{norm}"))?,
            None => y.clone(),
        };
        let (x, scale) = (x.to_device(y.device())?, self.architecture.residual_scale);
        Ok((x + if scale == 1.0 { y } else { (y * scale)? })?)
    }

    fn mlp(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let a = self.architecture;
        let prefix = format!("model.layers.{layer}.mlp");
        if is_fused(x) && x.track_op() && !a.fused_gate_up && !a.mlp_bias {
            let names = ["gate", "up", "down"].map(|part| format!("{prefix}.{part}_proj.weight"));
            let weight = |name: &String| -> Result<_> {
                let weight = self.weights.weight(name)?;
                let gradient = self.weights.gradient(name);
                // A gradient accumulated outside the graph needs a separate operation.
                Ok((if gradient.is_some() { weight.detach() } else { weight }, gradient))
            };
            let [gate, up, down] = [weight(&names[0])?, weight(&names[1])?, weight(&names[2])?];
            if ![&gate, &up, &down].iter().any(|(w, _)| w.track_op()) {
                return Ok(mlp(
                    x,
                    [(&gate.0, gate.1), (&up.0, up.1), (&down.0, down.1)],
                    a.activation,
                )?);
            }
        }
        self.last(Half::Mlp, layer, &self.gated(x, layer)?)
    }

    /// Returns the gated units of the MLP, the input of its last projection.
    fn gated(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let (a, prefix) = (self.architecture, format!("model.layers.{layer}.mlp"));
        let project =
            |part: &str| self.linear_named(x, &format!("{prefix}.{part}_proj"), a.mlp_bias);
        let (gate, up) = if a.fused_gate_up {
            let both = project("gate_up")?;
            let part = |i: usize| both.narrow(1, i * a.intermediate, a.intermediate)?.contiguous();
            (part(0)?, part(1)?)
        } else {
            (project("gate")?, project("up")?)
        };
        Ok(gated(&gate, &up, a.activation)?)
    }

    pub(super) fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mut weight = self.weights.weight(&format!("{name}.weight"))?;
        let offset = self.architecture.norm_offset;
        if offset != 0.0 {
            weight = (weight + offset)?;
        }
        Ok(rms_norm(x, &weight, self.architecture.norm_eps)?)
    }

    pub(super) fn linear_named(&self, x: &Tensor, name: &str, bias: bool) -> Result<Tensor> {
        let bias = bias.then(|| format!("{name}.bias"));
        self.linear(x, &format!("{name}.weight"), bias.as_deref())
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

/// Post-processes the product of the output layer: applies the architecture's scale and, if it caps
/// logits, `c tanh(z / c)`.
///
/// # Errors
/// Out of memory on the device.
pub fn capped(architecture: &Architecture, logits: Tensor) -> Result<Tensor> {
    let scale = architecture.logit_scale;
    let logits = if scale == 1.0 { logits } else { (logits * scale)? };
    let Some(cap) = architecture.logit_cap else { return Ok(logits) };
    Ok(soft_cap(&logits, cap)?)
}
