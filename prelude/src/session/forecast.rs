//! The resources that training a session needs, forecast when a report asks for them.

use candle_core::DType;

use super::{BASE, Session};
use crate::checkpoint::Source;
use crate::coefficients::Merge;
use crate::error::Result;
use crate::solve::{SolveSettings, bytes};
use crate::train::{Forecast, Room, StepPlan, StepShape, Workload};

/// The assumed length of an example, in tokens, for a source without data.
const ASSUMED_LENGTH: usize = 512;

impl Session {
    /// Forecasts the resources for training with the current data and settings.
    pub(super) fn forecast(&self) -> Forecast {
        let mut forecast = Forecast::new(&self.workload(), &self.models.settings);
        forecast.working_bytes += self.merge.coefficient_bytes();
        forecast.solve_bytes = bytes(&self.merge, self.tokens_to_solve(), false);
        if self.merge.device.is_cpu() { forecast.with_disk(&self.sources) } else { forecast }
    }

    /// Returns the tokens that solving with default settings takes.
    fn tokens_to_solve(&self) -> usize {
        let (count, max_length) =
            (SolveSettings::default().examples, self.models.settings.max_length);
        let of = |source: &Source| match self.models.data.get(source.name()) {
            Some(data) => {
                data.examples.iter().take(count).map(|e| e.ids.len().min(max_length)).sum()
            }
            None if source.name() == BASE => 0,
            None => count * ASSUMED_LENGTH.min(max_length),
        };
        self.sources.iter().map(of).sum()
    }

    /// Returns all sources: as loaded, and as merged where that differs.
    pub(super) fn all_sources(&self) -> Vec<Source> {
        self.models.sources.iter().chain(&self.sources).cloned().collect()
    }

    /// Returns an error if a step does not fit into main memory.
    pub(super) fn check_memory(&self) -> Result<()> {
        let (_, tokens) = self.workload().tokens;
        let shape = step_shape(&self.merge, self.dtype, tokens);
        let recompute = self.models.settings.recompute;
        StepPlan::checked(recompute, shape, &self.sources)?;
        Ok(())
    }

    /// Returns the work of one step.
    fn workload(&self) -> Workload {
        let max_length = self.models.settings.max_length;
        let batch_size = self.models.settings.batch_size;
        let mut usual = 0;
        let mut most = 0;
        let mut all = 0;
        let mut has_data = true;
        for source in &self.sources {
            if let Some(data) = self.models.data.get(source.name()) {
                let lengths = data.examples.iter().map(|e| e.ids.len().min(max_length));
                let sum: usize = lengths.clone().sum();
                usual += sum * batch_size / lengths.len().max(1);
                most += lengths.max().unwrap_or(0) * batch_size;
                all += sum;
            } else if source.name() != BASE {
                let assumed = ASSUMED_LENGTH.min(max_length) * batch_size;
                usual += assumed;
                most += assumed;
                has_data = false;
            }
        }
        let first = &self.sources[0];
        Workload {
            architecture: self.merge.architecture.clone(),
            sources: self.sources.len(),
            source_bytes: self.sources.iter().map(|s| s.bytes() as u64).sum(),
            tokens: (usual, most),
            has_data,
            all_tokens: all,
            baked_bytes: (first.parameters() * first.dtype().size_in_bytes()) as u64,
            device: self.merge.device.clone(),
            dtype: self.dtype,
            // Reports are made without errors; the next use of a device that fails is one.
            room: Room::of(&self.sources, &self.merge.device)
                .unwrap_or(Room { available: 0, copies: 0 }),
        }
    }
}

/// A step of up to `tokens` tokens of `merge` in `dtype`.
pub(super) fn step_shape(merge: &Merge, dtype: DType, tokens: usize) -> StepShape<'_> {
    StepShape { architecture: &merge.architecture, tokens, device: &merge.device, dtype }
}
