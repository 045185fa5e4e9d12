//! The disk's part in a step: sources larger than main memory are read again in every pass.

use serde::Serialize;

use super::Forecast;
use crate::checkpoint::{Source, disk_speed, keep_in_memory, passing_bytes};

/// How often a step of the first epoch needs all weights: for the teachers, and for the merge's
/// forward and backward pass.
pub(super) const PASSES: f64 = 3.0;

/// What a step reads from the disk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiskForecast {
    /// The bytes of sources that do not stay in main memory. A step reads them in the forward and
    /// in the backward pass, and in the first epoch once more, for the teachers.
    pub passing_bytes: u64,
    /// The disk's speed in bytes per second, measured; `None` where it cannot be.
    pub bytes_per_second: Option<f64>,
}

impl DiskForecast {
    /// Returns the seconds of a step's reading in the first epoch; `None` if the speed is unknown.
    pub fn seconds(&self) -> Option<f64> {
        Some(PASSES * self.passing_bytes as f64 / self.bytes_per_second?)
    }
}

/// Returns the bytes of main memory for pages of sources, where `available` bytes are free and a
/// step needs `step_bytes`. A tenth stays free for the rest of the machine.
fn room(available: u64, step_bytes: u64) -> u64 {
    (available / 10 * 9).saturating_sub(step_bytes)
}

/// Decides which layers of `sources` stay in main memory during steps that need `step_bytes` bytes,
/// where `available` bytes are free.
pub(crate) fn plan_sources(sources: &[Source], available: u64, step_bytes: u64) {
    keep_in_memory(sources, room(available, step_bytes));
}

impl Forecast {
    /// Returns the forecast with what steps of a merge of `sources` on the CPU read from the disk.
    /// Where sources do not stay in memory, the disk's speed is measured, which takes a fraction of
    /// a second. Reading and computing overlap, so a step takes as long as the slower of both.
    pub(crate) fn with_disk(mut self, sources: &[Source]) -> Self {
        let passing = passing_bytes(sources, room(self.available_bytes, self.working_bytes));
        if passing > 0 {
            let disk =
                DiskForecast { passing_bytes: passing, bytes_per_second: disk_speed(sources) };
            let reading = disk.seconds().map(|seconds| 100.0 / 60.0 * seconds);
            self.minutes = self.minutes.map(|minutes| minutes.max(reading.unwrap_or(0.0)));
            self.disk = Some(disk);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_first_epoch_reads_three_times() {
        let disk = |speed| DiskForecast { passing_bytes: 30, bytes_per_second: speed };
        assert_eq!(disk(Some(10.0)).seconds(), Some(9.0));
        assert_eq!(disk(None).seconds(), None);
        assert_eq!(room(100, 30), 60);
        assert_eq!(room(100, 95), 0);
    }
}
