//! The forecast of the resources that training needs: memory, disk and time.
//!
//! Memory is computed from shapes. One layer's merged weights and gradients are in memory at a
//! time, whatever the number of layers. What grows with the batch are the activations that layers
//! keep for the backward pass, or with `recompute` one hidden state per layer and token.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::checkpoint::{Architecture, Kind, TensorSpec};
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

/// Makes glibc keep freed memory for the next step, because mapping pages again costs a tenth of a
/// step. Does nothing on other platforms.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: these calls only set two thresholds of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Returns the bytes of main memory available to this process.
pub fn available_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(group)
}

impl Recompute {
    /// Decides whether to recompute in steps of `tokens` tokens on `device` with `available` bytes
    /// of free main memory.
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
        if !device.is_cpu() {
            return Ok(self == Recompute::On);
        }
        let on = match self {
            Recompute::On => true,
            Recompute::Off => false,
            Recompute::Auto => working(architecture, tokens, false) > available / 4 * 3,
        };
        let needed = working(architecture, tokens, on);
        if needed <= available {
            return Ok(on);
        }
        let fits = |tokens: &usize| working(architecture, *tokens, true) <= available;
        let fits = (1..=tokens).rev().step_by((tokens / 64).max(1)).find(fits);
        Err(Error::TooLarge { what: "training".into(), needed, available, tokens, fits })
    }
}

/// Returns the bytes of the merged weights and gradients in memory at once.
fn weights(a: &Architecture) -> u64 {
    let floats = |spec: &TensorSpec| spec.shape.iter().product::<usize>() as u64 * 4;
    let specs = a.tensors();
    let of = |wanted: &dyn Fn(&TensorSpec) -> bool| {
        specs.iter().filter(|s| wanted(s)).map(floats).sum::<u64>()
    };
    let layer = (0..a.layers).map(|layer| of(&|s| s.layer() == Some(layer))).max().unwrap_or(0);
    let output = of(&|s| s.name == a.output());
    // One layer with gradients; the output layer with its gradient; a teacher's output layer.
    2 * layer + 3 * output
}

/// Returns the bytes of activations kept per layer and token.
fn kept(a: &Architecture) -> u64 {
    let (q, kv) = ((a.heads * a.head_dim) as u64, (a.key_value_heads * a.head_dim) as u64);
    let (hidden, intermediate) = (a.hidden as u64, a.intermediate as u64);
    // Input and its copy, two norms, two sums, two outputs; projections before and after rotation,
    // attention; gate, up and their product.
    4 * (8 * hidden + 3 * q + 3 * kv + 3 * intermediate)
}

/// Returns the working memory of a step of `tokens` tokens in bytes.
fn working(a: &Architecture, tokens: usize, recompute: bool) -> u64 {
    let (tokens, layers) = (tokens as u64, a.layers as u64);
    let states = if recompute { 4 * a.hidden as u64 * layers + kept(a) } else { kept(a) * layers };
    let run = chunks(tokens as usize, a.vocabulary).map(|r| r.len()).max().unwrap_or(0) as u64;
    // In the backward pass, the gradients of a layer are about as large as its activations.
    weights(a) + tokens * (states + kept(a)) + 5 * 4 * run * a.vocabulary as u64
}

/// Returns the floating-point operations of a step: the teachers, and the forward and backward pass
/// of the merge.
fn operations(a: &Architecture, tokens: usize, length: usize, recompute: bool) -> f64 {
    let counted = |s: &&TensorSpec| s.kind == Kind::Linear || s.name == a.output();
    let weights: usize =
        a.tensors().iter().filter(counted).map(|s| s.shape.iter().product::<usize>()).sum();
    let attention = a.layers * a.heads * a.head_dim * length;
    let passes = if recompute { 5.0 } else { 4.0 };
    2.0 * tokens as f64 * passes * (weights + attention) as f64
}

/// Measures floating-point operations per second for a matrix product typical of training, on all
/// threads.
fn speed() -> Result<f64> {
    let (rows, width) = (512, 768);
    let x = Tensor::zeros((rows, width), DType::F32, &Device::Cpu)?;
    let w = Tensor::zeros((width, width), DType::F32, &Device::Cpu)?;
    let best = (0..4).map(|_| {
        let start = Instant::now();
        x.matmul(&w)?;
        Ok(start.elapsed().as_secs_f64())
    });
    let best = best.collect::<Result<Vec<f64>>>()?.into_iter().fold(f64::INFINITY, f64::min);
    Ok((2 * rows * width * width) as f64 / best.max(1e-9))
}

impl Forecast {
    /// Returns the limit in bytes of cached teacher outputs with `available` bytes free.
    pub fn teachers(available: u64) -> usize {
        usize::try_from(available / 4).unwrap_or(usize::MAX)
    }

    /// Forecasts the resources for `workload` with `settings` on `device`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if training cannot fit into main memory.
    pub fn new(workload: &Workload, settings: &Settings, device: &Device) -> Result<Self> {
        let (a, (usual, most)) = (&workload.architecture, workload.tokens);
        let available = available_bytes();
        let recompute = settings.recompute.decide(a, most, device, available)?;
        let working_bytes = if device.is_cpu() { working(a, most, recompute) } else { 0 };
        let length = usual / workload.sources.max(1) / settings.batch_size.max(1);
        let minutes = match device.is_cpu() {
            true => Some(operations(a, usual, length, recompute) / speed()? * 100.0 / 60.0),
            false => None,
        };
        let answers = 4 * a.hidden as u64 * workload.all_tokens as u64;
        Ok(Self {
            working_bytes,
            mapped_bytes: workload.source_bytes,
            teacher_bytes: answers.min(Self::teachers(available) as u64),
            disk_bytes: workload.baked_bytes,
            minutes,
            available_bytes: available,
            tokens: usual,
            has_data: workload.has_data,
            recompute,
        })
    }
}
