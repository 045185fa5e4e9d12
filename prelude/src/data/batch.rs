//! Packed sequences: concatenated without padding, so that every computed token counts.

use candle_core::{Device, Tensor};

use crate::error::Result;

/// Token sequences, packed.
#[derive(Clone)]
pub struct Batch {
    /// All tokens, sequence by sequence: u32.
    pub ids: Tensor,
    /// The number of tokens of each sequence.
    pub lengths: Vec<usize>,
    /// The number of tokens that all sequences begin with: they are there once, before all others.
    pub(crate) trunk: usize,
}

impl Batch {
    /// Packs `sequences`.
    ///
    /// ```
    /// use dam_prelude::{candle_core::Device, data::Batch};
    ///
    /// let batch = Batch::new([[5u32, 6, 7].as_slice(), &[8]], &Device::Cpu)?;
    /// assert_eq!((batch.tokens(), batch.lengths), (4, vec![3, 1]));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// No tokens, or not enough memory on the device.
    pub fn new<'a>(
        sequences: impl IntoIterator<Item = &'a [u32]>,
        device: &Device,
    ) -> Result<Self> {
        Self::branches(&[], sequences, device)
    }

    /// Packs sequences that all begin with `trunk`, whose tokens are computed once; `rests` are
    /// their other tokens.
    ///
    /// # Errors
    /// As for [`Batch::new`].
    pub(crate) fn branches<'a>(
        trunk: &[u32],
        rests: impl IntoIterator<Item = &'a [u32]>,
        device: &Device,
    ) -> Result<Self> {
        let rests: Vec<&[u32]> = rests.into_iter().collect();
        let ids = [trunk, &rests.concat()].concat();
        let tokens = ids.len();
        let lengths = rests.into_iter().map(<[u32]>::len).collect();
        Ok(Self { ids: Tensor::from_vec(ids, tokens, device)?, lengths, trunk: trunk.len() })
    }

    /// The total number of tokens.
    pub fn tokens(&self) -> usize {
        self.trunk + self.lengths.iter().sum::<usize>()
    }
}
