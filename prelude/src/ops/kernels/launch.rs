//! What a kernel is launched with, and where.

use candle_core::{DType, Result};

/// The most lanes of a group; `MOST_LANES` of the text.
pub(super) const MOST_LANES: usize = 256;

/// An argument of a kernel, in the order of the text.
pub(super) enum Argument<'a, B> {
    In(&'a B),
    Out(&'a mut B),
    U64(u64),
    U32(u32),
    F32(f32),
}

impl<B> Argument<'_, B> {
    /// A number of elements or rows.
    pub(super) fn size(n: usize) -> Self {
        Self::U64(n as u64)
    }
}

/// A kernel with all that it is launched with.
pub(super) struct Launch<'a, B> {
    /// Its name in the text, with the suffix of the dtype.
    pub(super) kernel: String,
    pub(super) arguments: Vec<Argument<'a, B>>,
    /// The number of work groups.
    pub(super) groups: usize,
    /// The number of lanes of a group: a power of two, at most [`MOST_LANES`].
    pub(super) lanes: usize,
}

/// A device that runs kernels one after another, in the order in which they are launched.
pub(super) trait Queue {
    /// Elements on the device.
    type Buffer;

    /// Returns a buffer with undefined contents.
    ///
    /// # Errors
    /// Out of memory.
    fn allocate(&self, dtype: DType, elements: usize) -> Result<Self::Buffer>;

    /// Launches a kernel.
    ///
    /// # Errors
    /// The device refuses it.
    fn launch(&self, launch: Launch<'_, Self::Buffer>) -> Result<()>;
}

/// Returns how many lanes a group needs for `n` pieces of work: a power of two.
pub(super) fn lanes_for(n: usize) -> usize {
    n.next_power_of_two().clamp(32, MOST_LANES)
}

/// Blocks of rows whose sums are made separately: their number, and the rows of each.
pub(super) fn blocks_of(rows: usize) -> (usize, usize) {
    /// Enough for the groups to fill a GPU, few enough for their sums to stay small.
    const MOST: usize = 256;
    const FEWEST_ROWS: usize = 32;
    let height = rows.div_ceil(MOST).max(FEWEST_ROWS);
    (rows.div_ceil(height), height)
}
