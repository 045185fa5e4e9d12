//! Launches of the gate of an MLP, and of a product with a scalar on the device.

use candle_core::{DType, Result};

use super::launch::{Argument, Launch, Queue, lanes_for};
use super::named;
use crate::checkpoint::Activation;

/// `ELEMENTS_PER_LANE` of the text.
const AT_ONCE: usize = 4;

/// Returns the groups and lanes for `elements`.
fn shape(elements: usize) -> (usize, usize) {
    let lanes = lanes_for(elements.div_ceil(AT_ONCE));
    (elements.div_ceil(AT_ONCE * lanes), lanes)
}

/// `f(gate) * up` of `elements` in `dtype`.
#[derive(Clone, Copy)]
pub(super) struct Gate {
    pub(super) f: Activation,
    pub(super) elements: usize,
    pub(super) dtype: DType,
}

impl Gate {
    fn kind(self) -> u32 {
        match self.f {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
        }
    }

    /// Returns `f(gate) * up`.
    ///
    /// # Errors
    /// No kernel for the dtype; the device refuses a launch.
    pub(super) fn forward<Q: Queue>(
        self,
        queue: &Q,
        gate: &Q::Buffer,
        up: &Q::Buffer,
    ) -> Result<Q::Buffer> {
        let mut y = queue.allocate(self.dtype, self.elements)?;
        let (groups, lanes) = shape(self.elements);
        queue.launch(Launch {
            kernel: named("gate", self.dtype)?,
            arguments: vec![
                Argument::In(gate),
                Argument::In(up),
                Argument::Out(&mut y),
                Argument::size(self.elements),
                Argument::U32(self.kind()),
            ],
            groups,
            lanes,
        })?;
        Ok(y)
    }

    /// Returns the gradients of the gate and of `up`.
    ///
    /// # Errors
    /// As for `forward`.
    pub(super) fn backward<Q: Queue>(
        self,
        queue: &Q,
        gate: &Q::Buffer,
        up: &Q::Buffer,
        dy: &Q::Buffer,
    ) -> Result<(Q::Buffer, Q::Buffer)> {
        let mut dg = queue.allocate(self.dtype, self.elements)?;
        let mut du = queue.allocate(self.dtype, self.elements)?;
        let (groups, lanes) = shape(self.elements);
        queue.launch(Launch {
            kernel: named("gate_backward", self.dtype)?,
            arguments: vec![
                Argument::In(gate),
                Argument::In(up),
                Argument::In(dy),
                Argument::Out(&mut dg),
                Argument::Out(&mut du),
                Argument::size(self.elements),
                Argument::U32(self.kind()),
            ],
            groups,
            lanes,
        })?;
        Ok((dg, du))
    }
}

/// Multiplies `elements` of `x`, of `dtype`, by `factor` (one f32).
///
/// # Errors
/// As for [`Gate::forward`].
pub(super) fn scale<Q: Queue>(
    queue: &Q,
    x: &mut Q::Buffer,
    factor: &Q::Buffer,
    (elements, dtype): (usize, DType),
) -> Result<()> {
    let (groups, lanes) = shape(elements);
    queue.launch(Launch {
        kernel: named("scale", dtype)?,
        arguments: vec![Argument::Out(x), Argument::In(factor), Argument::size(elements)],
        groups,
        lanes,
    })
}
