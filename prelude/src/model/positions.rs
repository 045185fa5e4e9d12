//! Where the tokens of a batch stand in their sequences.

use std::ops::Range;

use super::cache::Cache;
use crate::checkpoint::{Architecture, Rope};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::ops::RotaryTable;

/// The positions of packed tokens: those of their sequences, and the rotary angles.
pub struct Positions {
    /// The number of first tokens that all sequences begin with, which are there once.
    pub(super) trunk: usize,
    /// The number of tokens of each sequence, without the trunk.
    pub(super) lengths: Vec<usize>,
    /// The position of the first token of each sequence.
    pub(super) starts: Vec<usize>,
    /// One table per rotary embedding of the architecture.
    pub(super) tables: Vec<RotaryTable>,
}

impl Positions {
    /// Returns the positions of a batch, whose sequences begin at 0, or behind the trunk.
    pub fn new(architecture: &Architecture, batch: &Batch) -> Self {
        let trunk = batch.trunk;
        Self::of(architecture, trunk, &batch.lengths, vec![trunk; batch.lengths.len()])
    }

    /// Returns the positions of the next `lengths[i]` tokens of the sequence in `caches[i]`.
    ///
    /// # Errors
    /// Not one length for each cache.
    pub(super) fn after(
        architecture: &Architecture,
        lengths: &[usize],
        caches: &[Cache],
    ) -> Result<Self> {
        if lengths.len() != caches.len() {
            let (lengths, caches) = (lengths.len(), caches.len());
            let text = format!("{lengths} lengths do not fit {caches} sequences");
            return Err(Error::from(candle_core::Error::Msg(text)));
        }
        Ok(Self::of(architecture, 0, lengths, caches.iter().map(Cache::len).collect()))
    }

    fn of(
        architecture: &Architecture,
        trunk: usize,
        lengths: &[usize],
        starts: Vec<usize>,
    ) -> Self {
        let own = starts.iter().zip(lengths).map(|(start, length)| *start..start + length);
        let ranges: Vec<Range<usize>> = std::iter::once(0..trunk).chain(own).collect();
        let table = |rope: &Rope| RotaryTable::new(rope, &ranges);
        let tables = architecture.ropes.iter().map(table).collect();
        Self { trunk, lengths: lengths.to_vec(), starts, tables }
    }
}
