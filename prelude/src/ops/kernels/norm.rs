//! Launches of RMS norm.

use candle_core::{DType, Result};

use super::launch::{Argument, Launch, Queue, blocks_of, lanes_for};
use super::merge::sum_columns;
use super::named;

/// RMS norm of rows x columns in `dtype`.
#[derive(Clone, Copy)]
pub(super) struct RmsNorm {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) eps: f64,
    pub(super) dtype: DType,
}

impl RmsNorm {
    /// Returns `y` for `x` (rows x columns) and `w` (columns).
    ///
    /// # Errors
    /// No kernel for the dtype; the device refuses a launch.
    pub(super) fn forward<Q: Queue>(
        self,
        queue: &Q,
        x: &Q::Buffer,
        w: &Q::Buffer,
    ) -> Result<Q::Buffer> {
        let mut y = queue.allocate(self.dtype, self.rows * self.columns)?;
        queue.launch(Launch {
            kernel: named("rms_norm", self.dtype)?,
            arguments: vec![
                Argument::In(x),
                Argument::In(w),
                Argument::Out(&mut y),
                Argument::size(self.columns),
                Argument::F32(self.eps as f32),
            ],
            groups: self.rows,
            lanes: lanes_for(self.columns),
        })?;
        Ok(y)
    }

    /// Returns the gradients of `x` and `w`.
    ///
    /// # Errors
    /// As for `forward`.
    pub(super) fn backward<Q: Queue>(
        self,
        queue: &Q,
        x: &Q::Buffer,
        w: &Q::Buffer,
        dy: &Q::Buffer,
    ) -> Result<(Q::Buffer, Q::Buffer)> {
        let Self { rows, columns, eps, dtype } = self;
        let mut dx = queue.allocate(dtype, rows * columns)?;
        let mut inverse = queue.allocate(DType::F32, rows)?;
        let lanes = lanes_for(columns);
        queue.launch(Launch {
            kernel: named("rms_norm_input", dtype)?,
            arguments: vec![
                Argument::In(x),
                Argument::In(w),
                Argument::In(dy),
                Argument::Out(&mut dx),
                Argument::Out(&mut inverse),
                Argument::size(columns),
                Argument::F32(eps as f32),
            ],
            groups: rows,
            lanes,
        })?;
        let (blocks, height) = blocks_of(rows);
        let mut parts = queue.allocate(DType::F32, blocks * columns)?;
        queue.launch(Launch {
            kernel: named("rms_norm_weight", dtype)?,
            arguments: vec![
                Argument::In(x),
                Argument::In(dy),
                Argument::In(&inverse),
                Argument::Out(&mut parts),
                Argument::size(rows),
                Argument::size(columns),
                Argument::size(height),
            ],
            groups: blocks * columns.div_ceil(lanes),
            lanes,
        })?;
        let mut dw = queue.allocate(dtype, columns)?;
        sum_columns(queue, &parts, (blocks, columns), (&mut dw, dtype), 0)?;
        Ok((dx, dw))
    }
}
