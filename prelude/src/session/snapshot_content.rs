//! The large part of a snapshot, in memory.

use crate::train::{History, Moments};

/// The large part of a snapshot.
pub(super) struct SnapshotContent {
    /// The values of every variable, in the order of the merge's variables.
    pub values: Vec<Vec<f32>>,
    /// The optimiser's moments, in the same order.
    pub moments: Vec<Moments>,
    /// Examples drawn from each source's data.
    pub drawn: usize,
    pub history: History,
}

impl SnapshotContent {
    /// Returns the approximate size in memory.
    pub fn bytes(&self) -> usize {
        let moments = self.moments.iter().map(|m| 4 * (m.m.len() + m.v.len())).sum::<usize>();
        let steps = self.history.total.len()
            + self.history.terms.iter().map(|(_, steps)| steps.len()).sum::<usize>();
        self.values.iter().map(|v| 4 * v.len()).sum::<usize>() + moments + 16 * steps
    }
}
