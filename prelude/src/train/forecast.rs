//! What training will take, told before it is taken: memory, disk and time.
//!
//! Memory is counted from shapes. A layer's merged weights and their gradients exist once, whatever the
//! number of layers; what grows with the batch are the values that layers keep for the way down, or with
//! `recompute` one hidden state a layer and token.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::checkpoint::{Architecture, Kind, TensorSpec};
use crate::error::{Error, Result};
use crate::model::runs;

/// Whether layers are computed again on the way down instead of being kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Only where they would not fit.
    #[default]
    Auto,
    /// Always: least memory, a quarter more time.
    On,
    /// Never.
    Off,
}

/// The work of one step.
#[derive(Clone, Debug)]
pub struct Load {
    /// What the merged model is.
    pub architecture: Architecture,
    /// The sources that are merged.
    pub sources: usize,
    /// Bytes of all sources' weights.
    pub source_bytes: u64,
    /// Tokens of all sources in one step: usually, and at most.
    pub tokens: (usize, usize),
    /// Whether these are of data that is there.
    pub has_data: bool,
    /// Tokens of all examples, which teachers' answers are kept for.
    pub all_tokens: usize,
    /// Bytes of a merged weight when it is baked.
    pub baked_bytes: u64,
}

/// What a merge will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Main memory that training needs, without the mapped sources.
    pub working_bytes: u64,
    /// The sources' weights, mapped from their files: memory where there is some to spare.
    pub mapped_bytes: u64,
    /// Teachers' answers kept at most.
    pub teacher_bytes: u64,
    /// The merge on disk.
    pub disk_bytes: u64,
    /// Minutes that a hundred steps take on this machine, teachers met for the first time; none on a GPU.
    pub minutes: Option<f64>,
    /// Memory that is free now.
    pub available_bytes: u64,
    /// Tokens that a step of all sources usually has, of their data or assumed before there is any.
    pub tokens: usize,
    /// Whether all sources have data.
    pub has_data: bool,
    /// Whether layers will be computed again on the way down.
    pub recompute: bool,
}

/// Tells glibc to keep what training frees for the next step: mapping its pages anew costs a tenth of a
/// step. Elsewhere nothing is told.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: these only set two thresholds of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Bytes of main memory that this process may still take.
pub fn available_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(group)
}

impl Recompute {
    /// Whether to recompute in steps of `tokens` on `device`, while `available` bytes of main memory are free.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for what does not fit.
    pub fn decide(self, architecture: &Architecture, tokens: usize, device: &Device, available: u64) -> Result<bool> {
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

/// Bytes of the merged weights and gradients that are in memory at once.
fn weights(a: &Architecture) -> u64 {
    let floats = |spec: &TensorSpec| spec.shape.iter().product::<usize>() as u64 * 4;
    let specs = a.tensors();
    let of = |wanted: &dyn Fn(&TensorSpec) -> bool| specs.iter().filter(|s| wanted(s)).map(floats).sum::<u64>();
    let layer = (0..a.layers).map(|layer| of(&|s| s.layer() == Some(layer))).max().unwrap_or(0);
    let output = of(&|s| s.name == a.output());
    // The layer and its gradients; the output layer, its gradient, and a teacher's.
    2 * layer + 3 * output
}

/// Bytes that a layer keeps for the way down, a token.
fn kept(a: &Architecture) -> u64 {
    let (q, kv) = ((a.heads * a.head_dim) as u64, (a.key_value_heads * a.head_dim) as u64);
    let (hidden, intermediate) = (a.hidden as u64, a.intermediate as u64);
    // Input and its copy, two norms, two sums, two outputs; projections before and after their rotation,
    // attention; gate, up and their product.
    4 * (8 * hidden + 3 * q + 3 * kv + 3 * intermediate)
}

/// Bytes that a step of `tokens` works in.
fn working(a: &Architecture, tokens: usize, recompute: bool) -> u64 {
    let (tokens, layers) = (tokens as u64, a.layers as u64);
    let states = if recompute { 4 * a.hidden as u64 * layers + kept(a) } else { kept(a) * layers };
    let run = runs(tokens as usize, a.vocabulary).map(|r| r.len()).max().unwrap_or(0) as u64;
    // On the way down a layer's gradients are about what it kept.
    weights(a) + tokens * (states + kept(a)) + 5 * 4 * run * a.vocabulary as u64
}

/// Floating point operations of a step: the teachers, and the merge up and down.
fn operations(a: &Architecture, tokens: usize, length: usize, recompute: bool) -> f64 {
    let counted = |s: &&TensorSpec| s.kind == Kind::Linear || s.name == a.output();
    let weights: usize = a.tensors().iter().filter(counted).map(|s| s.shape.iter().product::<usize>()).sum();
    let attention = a.layers * a.heads * a.head_dim * length;
    let passes = if recompute { 5.0 } else { 4.0 };
    2.0 * tokens as f64 * passes * (weights + attention) as f64
}

/// Operations a second of a product like those of training, on all threads.
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
    /// Bytes of teachers' answers that are kept while `available` bytes are free.
    pub fn teachers(available: u64) -> usize {
        usize::try_from(available / 4).unwrap_or(usize::MAX)
    }

    /// What `load` will take with `settings` on `device`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for what cannot fit into main memory, however it is computed.
    pub fn new(load: &Load, settings: &Settings, device: &Device) -> Result<Self> {
        let (a, (usual, most)) = (&load.architecture, load.tokens);
        let available = available_bytes();
        let recompute = settings.recompute.decide(a, most, device, available)?;
        let working_bytes = if device.is_cpu() { working(a, most, recompute) } else { 0 };
        let length = usual / load.sources.max(1) / settings.batch_size.max(1);
        let minutes = match device.is_cpu() {
            true => Some(operations(a, usual, length, recompute) / speed()? * 100.0 / 60.0),
            false => None,
        };
        let answers = 4 * a.hidden as u64 * load.all_tokens as u64;
        Ok(Self {
            working_bytes,
            mapped_bytes: load.source_bytes,
            teacher_bytes: answers.min(Self::teachers(available) as u64),
            disk_bytes: load.baked_bytes,
            minutes,
            available_bytes: available,
            tokens: usual,
            has_data: load.has_data,
            recompute,
        })
    }
}
