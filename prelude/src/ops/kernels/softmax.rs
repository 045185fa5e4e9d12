//! Launches of causal softmax.

use candle_core::{DType, Result};

use super::launch::{Argument, Launch, Queue, lanes_for};
use super::named;
use crate::ops::Causal;

/// Causal softmax of rows x keys in `dtype`.
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    pub(super) causal: Causal,
    pub(super) rows: usize,
    pub(super) keys: usize,
    pub(super) dtype: DType,
}

impl Softmax {
    fn launch<'a, Q: Queue>(
        self,
        queue: &Q,
        kernel: &str,
        mut arguments: Vec<Argument<'a, Q::Buffer>>,
    ) -> Result<()> {
        let Causal { scale, start, window, queries } = self.causal;
        arguments.extend([
            Argument::size(self.keys),
            Argument::size(queries),
            Argument::size(start),
            Argument::size(window.unwrap_or(usize::MAX)),
            Argument::F32(scale as f32),
        ]);
        queue.launch(Launch {
            kernel: named(kernel, self.dtype)?,
            arguments,
            groups: self.rows,
            lanes: lanes_for(self.keys),
        })
    }

    /// Returns the weights for `scores`.
    ///
    /// # Errors
    /// No kernel for the dtype; the device refuses a launch.
    pub(super) fn forward<Q: Queue>(self, queue: &Q, scores: &Q::Buffer) -> Result<Q::Buffer> {
        let mut p = queue.allocate(self.dtype, self.rows * self.keys)?;
        self.launch(queue, "causal_softmax", vec![Argument::In(scores), Argument::Out(&mut p)])?;
        Ok(p)
    }

    /// Returns the gradient of `scores` for `dp` of the weights.
    ///
    /// # Errors
    /// As for `forward`.
    pub(super) fn backward<Q: Queue>(
        self,
        queue: &Q,
        scores: &Q::Buffer,
        dp: &Q::Buffer,
    ) -> Result<Q::Buffer> {
        let mut ds = queue.allocate(self.dtype, self.rows * self.keys)?;
        self.launch(
            queue,
            "causal_softmax_backward",
            vec![Argument::In(scores), Argument::In(dp), Argument::Out(&mut ds)],
        )?;
        Ok(ds)
    }
}
