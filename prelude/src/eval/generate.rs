//! Greedy generation with a key-value cache.

use candle_core::{D, Device, Tensor};

use crate::checkpoint::Architecture;
use crate::error::Result;
use crate::interrupt;
use crate::model::{Cache, Decoder, Weights};

/// The likeliest tokens after `prompt`, up to `limit` of them or an end token, which is not returned;
/// those so far where it is interrupted.
///
/// # Errors
/// An empty prompt, or ids outside the vocabulary.
pub fn generate<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    prompt: &[u32],
    limit: usize,
    device: &Device,
) -> Result<Vec<u32>> {
    let decoder = Decoder::new(architecture, weights);
    let (mut cache, mut answer, mut next) = (Cache::default(), Vec::new(), prompt.to_vec());
    while answer.len() < limit && !interrupt::requested() {
        let hidden = decoder.hidden_cached(&Tensor::new(next, device)?, &mut cache)?;
        let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
        let token = decoder.logits(&last)?.argmax(D::Minus1)?.flatten_all()?.to_vec1::<u32>()?[0];
        if architecture.eos.contains(&token) {
            break;
        }
        answer.push(token);
        next = vec![token];
    }
    Ok(answer)
}
