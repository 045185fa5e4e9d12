//! The forecast of the resources that training needs: memory, disk and time.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use candle_core::{DType, Device};
use serde::Serialize;

use super::Settings;
use super::disk::DiskForecast;
use super::memory::{Room, StepPlan, StepShape, elements};
use crate::checkpoint::{Architecture, Kind, TensorSpec};
use crate::device::available_bytes;
use crate::ops::{Matrix, new_product};

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
    /// The device of the computation.
    pub device: Device,
    /// The dtype of the computation.
    pub dtype: DType,
    /// The memory that steps and copies of the sources share.
    pub room: Room,
}

/// The memory that training needs on a GPU, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpuForecast {
    /// The memory of a step.
    pub working_bytes: u64,
    /// The copies of sources that stay on the GPU.
    pub resident_bytes: u64,
    /// The weights that do not fit beside a step and are copied for each use.
    pub streamed_bytes: u64,
    /// The memory that is free without copies of the sources.
    pub available_bytes: u64,
}

/// The resources that a merge needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Main memory for training, without the memory-mapped sources.
    pub working_bytes: u64,
    /// Memory of the GPU; `None` on the CPU.
    pub gpu: Option<GpuForecast>,
    /// Main memory for solving with default settings.
    pub solve_bytes: u64,
    /// The sources' weights, mapped from their files; cached in spare memory.
    pub mapped_bytes: u64,
    /// The maximum size of cached teacher outputs.
    pub teacher_bytes: u64,
    /// The size of the merge on disk.
    pub disk_bytes: u64,
    /// What steps read from the disk; `None` if the sources stay in main memory, and on a GPU.
    pub disk: Option<DiskForecast>,
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

    /// Forecasts the resources for `workload` with `settings`, whether or not they are available.
    /// On the CPU, the first forecast of a process measures its speed.
    pub fn new(workload: &Workload, settings: &Settings) -> Self {
        let Workload { architecture: a, device, source_bytes, .. } = workload;
        let (usual, most) = workload.tokens;
        let shape = StepShape { architecture: a, tokens: most, device, dtype: workload.dtype };
        let room = workload.room;
        let StepPlan { recompute, step_bytes, resident_bytes } =
            StepPlan::new(settings.recompute, shape, room);
        let gpu = (!device.is_cpu()).then(|| GpuForecast {
            working_bytes: step_bytes,
            resident_bytes,
            streamed_bytes: room.copies - resident_bytes,
            available_bytes: room.available,
        });
        let available = available_bytes();
        let length = usual / workload.sources.max(1) / settings.batch_size.max(1);
        let step = || operations(a, usual, length, recompute) / speed();
        let answers = 4 * a.hidden as u64 * workload.all_tokens as u64;
        Self {
            working_bytes: if gpu.is_some() { 0 } else { step_bytes },
            gpu,
            solve_bytes: 0,
            mapped_bytes: *source_bytes,
            teacher_bytes: answers.min(Self::teachers(available) as u64),
            disk_bytes: workload.baked_bytes,
            disk: None,
            minutes: device.is_cpu().then(|| 100.0 / 60.0 * step()),
            available_bytes: available,
            tokens: usual,
            has_data: workload.has_data,
            recompute,
        }
    }
}
