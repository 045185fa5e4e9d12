//! The forecast of the resources that training needs: memory, disk and time.

use candle_core::{DType, Device};
use serde::Serialize;

use super::Settings;
use super::disk::{DiskForecast, PASSES};
use super::memory::{Room, StepPlan, StepShape, elements};
use super::speed::{self, GpuSpeed};
use crate::checkpoint::{Architecture, Kind, TensorSpec};
use crate::device::available_bytes;

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

impl GpuForecast {
    /// Returns the seconds of a step of `operations` in the first epoch. Weights that do not stay
    /// on the GPU are copied for the teachers and for the merge's forward and backward pass, while
    /// others compute.
    fn seconds(&self, operations: f64, speed: GpuSpeed) -> f64 {
        let copying = PASSES * self.streamed_bytes as f64 / speed.copied;
        copying.max(operations / speed.operations)
    }
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
    /// The minutes per 100 steps on this machine while the teachers run (first epoch); `None` if
    /// the speed of a GPU cannot be measured.
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

impl Forecast {
    /// Returns the limit in bytes of cached teacher outputs with `available` bytes free.
    pub fn teachers(available: u64) -> usize {
        usize::try_from(available / 4).unwrap_or(usize::MAX)
    }

    /// Forecasts the resources for `workload` with `settings`, whether or not they are available.
    /// The first forecast on a device measures its speed, in a fraction of a second.
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
        let operations = operations(a, usual, length, recompute);
        let seconds = match &gpu {
            None => Some(operations / speed::processor()),
            Some(gpu) => {
                speed::gpu(device, workload.dtype).map(|speed| gpu.seconds(operations, speed))
            }
        };
        let answers = 4 * a.hidden as u64 * workload.all_tokens as u64;
        Self {
            working_bytes: if gpu.is_some() { 0 } else { step_bytes },
            gpu,
            solve_bytes: 0,
            mapped_bytes: *source_bytes,
            teacher_bytes: answers.min(Self::teachers(available) as u64),
            disk_bytes: workload.baked_bytes,
            disk: None,
            minutes: seconds.map(|seconds| 100.0 / 60.0 * seconds),
            available_bytes: available,
            tokens: usual,
            has_data: workload.has_data,
            recompute,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_on_a_gpu_takes_the_longer_of_copying_and_computing() {
        let speed = GpuSpeed { operations: 10.0, copied: 5.0 };
        let gpu = |streamed_bytes| GpuForecast {
            working_bytes: 0,
            resident_bytes: 0,
            streamed_bytes,
            available_bytes: 0,
        };
        assert_eq!(gpu(0).seconds(40.0, speed), 4.0);
        assert_eq!(gpu(20).seconds(40.0, speed), 12.0);
    }
}
