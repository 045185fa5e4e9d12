//! Examples side by side, right-padded, with the positions that count.

use candle_core::{Device, Tensor};

use crate::error::Result;

/// A batch of token sequences.
pub struct Batch {
    /// batch x longest, u32; padded with 0 on the right, which causal attention never looks at.
    pub ids: Tensor,
    /// The unmasked positions of the flattened batch, u32.
    pub positions: Tensor,
    /// The number of sequences.
    pub size: usize,
    /// The number of unmasked tokens.
    pub tokens: usize,
}

impl Batch {
    /// Pads `sequences` to the longest of them.
    ///
    /// # Errors
    /// No sequences, or a device that has no room.
    pub fn new(sequences: &[&[u32]], device: &Device) -> Result<Self> {
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut ids = vec![0u32; sequences.len() * longest];
        let mut positions = Vec::new();
        for (row, sequence) in sequences.iter().enumerate() {
            ids[row * longest..][..sequence.len()].copy_from_slice(sequence);
            positions.extend((0..sequence.len()).map(|i| (row * longest + i) as u32));
        }
        let tokens = positions.len();
        Ok(Self {
            ids: Tensor::from_vec(ids, (sequences.len(), longest), device)?,
            positions: Tensor::from_vec(positions, tokens, device)?,
            size: sequences.len(),
            tokens,
        })
    }

    /// The rows of `hidden` (batch x longest x width) that count: tokens x width.
    ///
    /// # Errors
    /// Another shape than the batch has.
    pub fn unmasked(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.flatten(0, 1)?.index_select(&self.positions, 0)?)
    }
}
