//! The memory of a step, computed from shapes, and the decision whether the backward pass recomputes
//! layers.
//!
//! One layer's merged weights and gradients are in memory at a time, whatever the number of layers.
//! What grows with the batch are the activations that layers keep for the backward pass, or with
//! recomputation one hidden state per layer and token.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Architecture, Source, TensorSpec, capacity, make_room};
use crate::device::{is_composed, members};
use crate::error::{Error, Result};
use crate::model::chunks;

/// Whether the backward pass recomputes layers instead of keeping their activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Only if they would not fit into memory.
    #[default]
    Auto,
    /// Always: least memory, a quarter more time.
    On,
    /// Never.
    Off,
}

/// A step of up to `tokens` tokens.
#[derive(Clone, Copy)]
pub(crate) struct StepShape<'a> {
    /// The architecture of the merged model.
    pub architecture: &'a Architecture,
    /// The tokens of all sources.
    pub tokens: usize,
    /// Where the step runs.
    pub device: &'a Device,
    /// The dtype of the computation.
    pub dtype: DType,
}

impl Recompute {
    /// Decides whether steps of `shape` recompute layers, with `available` bytes of memory for the
    /// step and, on a GPU, for copies of the sources of `source_bytes` bytes.
    pub(crate) fn applies(self, shape: StepShape<'_>, source_bytes: u64, available: u64) -> bool {
        match self {
            Recompute::On => true,
            Recompute::Off => false,
            Recompute::Auto if is_composed(shape.device) => {
                shape.bytes(false) + source_bytes > available / 10 * 9
            }
            Recompute::Auto => shape.bytes(false) > available / 4 * 3,
        }
    }

    /// Decides as [`Recompute::applies`] does, and checks that the step fits. On a GPU, copies of
    /// `sources` that leave no room for the step are dropped; their weights are then copied for
    /// each use. `available` are the bytes of free main memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the step does not fit.
    pub(crate) fn decide(
        self,
        shape: StepShape<'_>,
        sources: &[Source],
        available: u64,
    ) -> Result<bool> {
        let on_device = is_composed(shape.device);
        let available = if on_device { capacity(sources, shape.device)? } else { available };
        let shares = if on_device { members(shape.device).len() as u64 } else { 1 };
        let source_bytes = sources.iter().map(Source::copied_bytes).sum::<u64>() / shares;
        let on = self.applies(shape, source_bytes, available);
        let mut needed = shape.bytes(on);
        if on_device && needed + source_bytes > available {
            // One layer of every source, copied for its use.
            needed += source_bytes / (shape.architecture.layers as u64).max(1);
        }
        if needed <= available {
            if on_device {
                make_room(sources, shape.device, needed)?;
            }
            return Ok(on);
        }
        let fits = |tokens: &usize| StepShape { tokens: *tokens, ..shape }.bytes(true) <= available;
        let tokens = shape.tokens;
        let fits = (1..=tokens).rev().step_by((tokens / 64).max(1)).find(fits);
        let what = if shape.device.is_cpu() { "training" } else { "training on the GPU" };
        Err(Error::TooLarge { what: what.into(), needed, available, tokens, fits })
    }
}

impl StepShape<'_> {
    /// Returns the bytes of the step's working memory, without the sources.
    pub(crate) fn bytes(self, recompute: bool) -> u64 {
        let (a, layers) = (self.architecture, self.architecture.layers as u64);
        let (state, kept) = (self.element() * a.hidden as u64, self.kept());
        let states = if recompute { state * layers + kept } else { kept * layers };
        let chunk = chunks(self.tokens, a.vocabulary, self.device).map(|chunk| chunk.len()).max();
        let logits = 4 * (chunk.unwrap_or(0) * a.vocabulary) as u64;
        // Logits, their gradients and what a loss makes of them; composed, each in many parts.
        let copies = match self.device {
            Device::Cuda(_) => 8,
            device if is_composed(device) => 20,
            _ => 5,
        };
        // In the backward pass, the gradients of a layer are about as large as its activations.
        self.weights() + self.tokens as u64 * (states + kept) + copies * logits
    }

    /// The bytes of an element of activations.
    fn element(self) -> u64 {
        self.dtype.size_in_bytes() as u64
    }

    /// Returns the bytes of the merged weights and gradients in memory at once.
    fn weights(self) -> u64 {
        let a = self.architecture;
        let mut layers = vec![0; a.layers];
        let (mut output, mut largest) = (0, 0);
        for spec in a.tensors() {
            let elements = elements(&spec) as u64;
            largest = largest.max(elements);
            if let Some(layer) = spec.layer() {
                layers[layer] += elements;
            }
            if spec.name == a.output() {
                output = elements;
            }
        }
        // One layer and the output layer, each with its gradient in f32.
        let (layer, of_each) = (layers.into_iter().max().unwrap_or(0), self.element() + 4);
        if is_composed(self.device) {
            // What the composed merge and its gradient make of the largest weight, in f32.
            return of_each * (layer + output) + 4 * 4 * largest;
        }
        // A teacher's output layer.
        of_each * (layer + output) + 4 * output
    }

    /// Returns the bytes of activations kept per layer and token.
    fn kept(self) -> u64 {
        let a = self.architecture;
        let (hidden, queries) = (a.hidden as u64, (a.heads * a.head_dim) as u64);
        let (keys, inner) = ((a.key_value_heads * a.head_dim) as u64, a.intermediate as u64);
        if is_composed(self.device) {
            // Input, two sums, two outputs, and each norm in f32 and the dtype of the computation;
            // projections, their rotation in parts, and their copies by heads; gate, up, the
            // activated gate and the product.
            let norms = 2 * (12 + if self.dtype == DType::F32 { 0 } else { 4 }) * hidden;
            let others = 5 * hidden + 6 * queries + 8 * keys + 4 * inner;
            return norms + self.element() * others;
        }
        // Input and its copy, two norms, two sums, two outputs; projections before and after
        // rotation, attention; gate, up and their product.
        self.element() * (8 * hidden + 3 * queries + 3 * keys + 3 * inner)
    }
}

/// Returns the number of elements of a tensor.
pub(super) fn elements(spec: &TensorSpec) -> usize {
    spec.shape.iter().product()
}
