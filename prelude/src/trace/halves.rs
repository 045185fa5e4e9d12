//! Layers by halves, so that the residual stream is seen between attention and MLP, for many
//! variants of one sequence at a time.

use candle_core::Tensor;

use super::subject::Subject;
use crate::error::Result;
use crate::interrupt;
use crate::model::{Decoder, Half, Positions, Weights};

/// The maximum number of tokens run at once, unless one sequence has more: enough for fast
/// products, few enough for the activations of half a layer.
const TOKENS: usize = 4096;

/// Applies half a layer to the residual stream `x` (tokens x hidden).
///
/// # Errors
/// A missing weight, or [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn half_layer<W: Weights + ?Sized>(
    decoder: &Decoder<'_, W>,
    half: Half,
    layer: usize,
    x: &Tensor,
    positions: &Positions,
) -> Result<Tensor> {
    interrupt::check()?;
    let y = decoder.inner(half, layer, &decoder.before(half, layer, x)?, positions)?;
    decoder.after(half, layer, x, &decoder.last(half, layer, &y)?)
}

/// Applies half a layer to each of `streams`, variants of the residual stream of the tokens `ids`.
///
/// # Errors
/// As for [`half_layer`].
pub(super) fn half_layer_each<W: Weights + ?Sized, V: Weights + ?Sized>(
    subject: &Subject<'_, W>,
    decoder: &Decoder<'_, V>,
    (half, layer): (Half, usize),
    ids: &[u32],
    streams: &mut [&mut Tensor],
) -> Result<()> {
    let at_once = (TOKENS / ids.len().max(1)).max(1);
    for group in streams.chunks_mut(at_once) {
        let (_, positions) = subject.batch(ids, group.len())?;
        let all = Tensor::cat(&group.iter().map(|x| &**x).collect::<Vec<_>>(), 0)?;
        let all = half_layer(decoder, half, layer, &all, &positions)?;
        for (i, x) in group.iter_mut().enumerate() {
            **x = all.narrow(0, i * ids.len(), ids.len())?;
        }
    }
    Ok(())
}
