//! The forecast of the resources that training needs: memory, disk and time.
//!
//! Memory is computed from shapes. One layer's merged weights and gradients are in memory at a
//! time, whatever the number of layers. What grows with the batch are the activations that layers
//! keep for the backward pass, or with `recompute` one hidden state per layer and token.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::free_memory::available_bytes;
use crate::checkpoint::{Architecture, Kind, TensorSpec};
use crate::error::{Error, Result};
use crate::model::chunks;
use crate::ops::{Matrix, new_product};

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

/// The work of one step.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The architecture of the merged model.
    pub architecture: Architecture,
    /// The number of merged sources.
    pub sources: usize,
    /// The bytes of all sources' weights.
    pub source_bytes: u64,
    /// The tokens of all sources in one step: on average, and at most.
    pub tokens: (usize, usize),
    /// Whether the token counts come from data, not from assumptions.
    pub has_data: bool,
    /// The tokens of all examples, for which teacher outputs are cached.
    pub all_tokens: usize,
    /// The bytes of the baked merge.
    pub baked_bytes: u64,
}

/// The resources that a merge needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Main memory for training, without the memory-mapped sources.
    pub working_bytes: u64,
    /// Main memory for solving with default settings.
    pub solve_bytes: u64,
    /// The sources' weights, mapped from their files; cached in spare memory.
    pub mapped_bytes: u64,
    /// The maximum size of cached teacher outputs.
    pub teacher_bytes: u64,
    /// The size of the merge on disk.
    pub disk_bytes: u64,
    /// The minutes per 100 steps on this machine while the teachers run (first epoch); `None` on a
    /// GPU.
    pub minutes: Option<f64>,
    /// The memory free now.
    pub available_bytes: u64,
    /// The average tokens per step over all sources, from their data or assumed.
    pub tokens: usize,
    /// Whether all sources have data.
    pub has_data: bool,
    /// Whether the backward pass will recompute layers.
    pub recompute: bool,
}

impl Recompute {
    /// Whether to recompute in steps of `tokens` tokens on `device` with `available` bytes of free
    /// main memory.
    fn applies(
        self,
        architecture: &Architecture,
        tokens: usize,
        device: &Device,
        available: u64,
    ) -> bool {
        match self {
            Recompute::On => true,
            Recompute::Off => false,
            Recompute::Auto => {
                device.is_cpu() && working(architecture, tokens, false) > available / 4 * 3
            }
        }
    }

    /// Decides whether to recompute in steps of `tokens` tokens on `device` with `available` bytes
    /// of free main memory, which the step must fit into on the CPU.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the step does not fit.
    pub fn decide(
        self,
        architecture: &Architecture,
        tokens: usize,
        device: &Device,
        available: u64,
    ) -> Result<bool> {
        let on = self.applies(architecture, tokens, device, available);
        let needed = working(architecture, tokens, on);
        if !device.is_cpu() || needed <= available {
            return Ok(on);
        }
        let fits = |tokens: &usize| working(architecture, *tokens, true) <= available;
        let fits = (1..=tokens).rev().step_by((tokens / 64).max(1)).find(fits);
        Err(Error::TooLarge { what: "training".into(), needed, available, tokens, fits })
    }
}

/// Returns the bytes of the merged weights and gradients in memory at once.
fn weights(a: &Architecture) -> u64 {
    let mut layers = vec![0; a.layers];
    let mut output = 0;
    for spec in a.tensors() {
        let bytes = 4 * elements(&spec) as u64;
        if let Some(layer) = spec.layer() {
            layers[layer] += bytes;
        }
        if spec.name == a.output() {
            output = bytes;
        }
    }
    // One layer with gradients; the output layer with its gradient; a teacher's output layer.
    2 * layers.into_iter().max().unwrap_or(0) + 3 * output
}

fn elements(spec: &TensorSpec) -> usize {
    spec.shape.iter().product()
}

/// Returns the bytes of activations kept per layer and token.
fn kept(a: &Architecture) -> u64 {
    let queries = a.heads * a.head_dim;
    let keys = a.key_value_heads * a.head_dim;
    // Input and its copy, two norms, two sums, two outputs; projections before and after rotation,
    // attention; gate, up and their product.
    4 * (8 * a.hidden + 3 * queries + 3 * keys + 3 * a.intermediate) as u64
}

/// Returns the working memory of a step of `tokens` tokens in bytes.
fn working(a: &Architecture, tokens: usize, recompute: bool) -> u64 {
    let layers = a.layers as u64;
    let states = if recompute { 4 * a.hidden as u64 * layers + kept(a) } else { kept(a) * layers };
    let chunk = chunks(tokens, a.vocabulary).map(|chunk| chunk.len()).max().unwrap_or(0);
    let logits = 4 * (chunk * a.vocabulary) as u64;
    // In the backward pass, the gradients of a layer are about as large as its activations.
    weights(a) + tokens as u64 * (states + kept(a)) + 5 * logits
}

/// Returns the floating-point operations of a step: the teachers, and the forward and backward pass
/// of the merge.
fn operations(a: &Architecture, tokens: usize, length: usize, recompute: bool) -> f64 {
    let multiplies = |s: &&TensorSpec| s.kind == Kind::Linear || s.name == a.output();
    let weights: usize = a.tensors().iter().filter(multiplies).map(elements).sum();
    let attention = a.layers * a.heads * a.head_dim * length;
    let passes = if recompute { 5.0 } else { 4.0 };
    2.0 * tokens as f64 * passes * (weights + attention) as f64
}

/// Returns the floating-point operations per second of the processor, measured once.
fn speed() -> f64 {
    static SPEED: OnceLock<f64> = OnceLock::new();
    *SPEED.get_or_init(measure_speed)
}

/// Measures floating-point operations per second for a matrix product typical of training, on all
/// threads: the best of a few.
fn measure_speed() -> f64 {
    const ROWS: usize = 512;
    const WIDTH: usize = 768;
    let x = vec![0f32; ROWS * WIDTH];
    let w = vec![0f32; WIDTH * WIDTH];
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let start = Instant::now();
        let product =
            new_product(Matrix::new(&x, ROWS, WIDTH, WIDTH), Matrix::new(&w, WIDTH, WIDTH, WIDTH));
        black_box(product);
        best = best.min(start.elapsed().as_secs_f64());
    }
    (2 * ROWS * WIDTH * WIDTH) as f64 / best.max(1e-9)
}

impl Forecast {
    /// Returns the limit in bytes of cached teacher outputs with `available` bytes free.
    pub fn teachers(available: u64) -> usize {
        usize::try_from(available / 4).unwrap_or(usize::MAX)
    }

    /// Forecasts the resources for `workload` with `settings` on `device`, whether or not they are
    /// available. On the CPU, the first forecast of a process measures its speed.
    pub fn new(workload: &Workload, settings: &Settings, device: &Device) -> Self {
        let a = &workload.architecture;
        let (usual, most) = workload.tokens;
        let available = available_bytes();
        let recompute = settings.recompute.applies(a, most, device, available);
        let working_bytes = if device.is_cpu() { working(a, most, recompute) } else { 0 };
        let length = usual / workload.sources.max(1) / settings.batch_size.max(1);
        let step = || operations(a, usual, length, recompute) / speed();
        let answers = 4 * a.hidden as u64 * workload.all_tokens as u64;
        Self {
            working_bytes,
            solve_bytes: 0,
            mapped_bytes: workload.source_bytes,
            teacher_bytes: answers.min(Self::teachers(available) as u64),
            disk_bytes: workload.baked_bytes,
            minutes: device.is_cpu().then(|| 100.0 / 60.0 * step()),
            available_bytes: available,
            tokens: usual,
            has_data: workload.has_data,
            recompute,
        }
    }
}
