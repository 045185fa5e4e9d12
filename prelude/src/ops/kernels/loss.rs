//! Launches of losses of rows of logits.

use candle_core::{DType, Result};

use super::launch::{Argument, Launch, Queue, lanes_for};
use super::merge::sum_rows;
use super::named;

/// A loss, with what it compares the logits with.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Loss<B> {
    Kl {
        /// Logits of the shape and dtype of the student's.
        teacher: B,
        temperature: f64,
    },
    Entropy {
        temperature: f64,
    },
    CrossEntropy {
        /// u32, one per row.
        targets: B,
    },
}

/// Logits: rows x columns of `dtype`.
pub(super) struct Logits<'a, B> {
    pub(super) z: &'a B,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) dtype: DType,
}

/// Returns the sum of `loss` over the rows (one f32) and, if `wanted`, its gradient (of the logits'
/// shape and dtype).
///
/// # Errors
/// No kernel for the dtype; the device refuses a launch.
pub(super) fn row_loss<Q: Queue>(
    queue: &Q,
    logits: &Logits<'_, Q::Buffer>,
    loss: Loss<&Q::Buffer>,
    wanted: bool,
) -> Result<(Q::Buffer, Option<Q::Buffer>)> {
    let Logits { z, rows, columns, dtype } = *logits;
    let mut losses = queue.allocate(DType::F32, rows)?;
    // The kernel does not write a gradient that is not wanted.
    let mut gradient = queue.allocate(dtype, if wanted { rows * columns } else { 1 })?;
    let (name, other, temperature) = match loss {
        Loss::Kl { teacher, temperature } => ("kl_divergence", Some(teacher), Some(temperature)),
        Loss::Entropy { temperature } => ("entropy", None, Some(temperature)),
        Loss::CrossEntropy { targets } => ("cross_entropy", Some(targets), None),
    };
    let mut arguments = vec![Argument::In(z)];
    arguments.extend(other.map(Argument::In));
    arguments.extend([
        Argument::Out(&mut losses),
        Argument::Out(&mut gradient),
        Argument::size(columns),
    ]);
    arguments.extend(temperature.map(|t| Argument::F32((1.0 / t) as f32)));
    arguments.push(Argument::U32(u32::from(wanted)));
    queue.launch(Launch {
        kernel: named(name, dtype)?,
        arguments,
        groups: rows,
        lanes: lanes_for(columns),
    })?;
    let mut sum = queue.allocate(DType::F32, 1)?;
    sum_rows(queue, &losses, (1, rows), &mut sum, 0)?;
    Ok((sum, wanted.then_some(gradient)))
}
