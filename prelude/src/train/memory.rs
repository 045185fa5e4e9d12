//! The memory of a step, computed from shapes, and the decision whether the backward pass
//! recomputes layers.
//!
//! One layer's merged weights and gradients are in memory at a time, whatever the number of layers.
//! What grows with the batch are the activations that layers keep for the backward pass, or with
//! recomputation one hidden state per layer and token.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Architecture, Source, TensorSpec, capacity, make_room};
use crate::device::{available_bytes, is_composed, members};
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

/// The memory that steps and, on a GPU, copies of the sources share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// The bytes free for steps and copies: of a GPU without the copies that it has, or of main
    /// memory. Of several GPUs, those of the one with the fewest.
    pub available: u64,
    /// The bytes of the copies; 0 where the sources stay memory-mapped.
    pub copies: u64,
}

/// How steps of a shape use memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepPlan {
    /// Whether the backward pass recomputes layers.
    pub recompute: bool,
    /// The bytes of a step's working memory, with a layer of every source that is copied for its
    /// use.
    pub step_bytes: u64,
    /// The bytes of the copies that stay beside it.
    pub resident_bytes: u64,
}

impl Room {
    /// Returns the room for steps from `sources` on `device`.
    ///
    /// # Errors
    /// A device that fails.
    pub(crate) fn of(sources: &[Source], device: &Device) -> Result<Self> {
        if !is_composed(device) {
            return Ok(Self { available: available_bytes(), copies: 0 });
        }
        let shares = members(device).len() as u64;
        let copies = sources.iter().map(Source::copied_bytes).sum::<u64>() / shares;
        Ok(Self { available: capacity(sources, device)?, copies })
    }
}

impl StepPlan {
    /// Plans steps of `shape` in `room`, whether or not they fit.
    pub(crate) fn new(asked: Recompute, shape: StepShape<'_>, room: Room) -> Self {
        let Room { available, copies } = room;
        let recompute = match asked {
            Recompute::On => true,
            Recompute::Off => false,
            Recompute::Auto if is_composed(shape.device) => {
                shape.bytes(false) + copies > available / 10 * 9
            }
            Recompute::Auto => shape.bytes(false) > available / 4 * 3,
        };
        let mut step_bytes = shape.bytes(recompute);
        if step_bytes + copies > available {
            // One layer of every source, copied for its use.
            step_bytes += copies / (shape.architecture.layers as u64).max(1);
        }
        let resident_bytes = available.saturating_sub(step_bytes).min(copies);
        Self { recompute, step_bytes, resident_bytes }
    }

    /// Plans steps of `shape` from `sources`, and checks that they fit. On a GPU, copies that leave
    /// no room for a step are dropped; their weights are then copied for each use.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a step does not fit.
    pub(crate) fn checked(
        asked: Recompute,
        shape: StepShape<'_>,
        sources: &[Source],
    ) -> Result<Self> {
        let room = Room::of(sources, shape.device)?;
        let plan = Self::new(asked, shape, room);
        if plan.step_bytes <= room.available {
            if is_composed(shape.device) {
                make_room(sources, shape.device, plan.step_bytes)?;
            }
            return Ok(plan);
        }
        let (needed, Room { available, .. }) = (plan.step_bytes, room);
        let fits = |tokens: &usize| {
            Self::new(Recompute::On, StepShape { tokens: *tokens, ..shape }, room).step_bytes
                <= available
        };
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
