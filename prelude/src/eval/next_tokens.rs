//! What a model expects at every position of an answer, from one forward pass over prompt and
//! answer (teacher forcing).

use candle_core::{DType, Device};

use super::groups::{Inputs, for_logits};
use super::likelihood::{log_prob, without};
use crate::checkpoint::Architecture;
use crate::error::Result;
use crate::model::Weights;

/// What a model expects at one position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NextToken {
    /// The most likely token; of several, the first.
    pub likeliest: u32,
    /// The log-probability in nats of the token that follows; `None` at the end, or if the token is
    /// not in the model's vocabulary.
    pub log_prob: Option<f64>,
}

/// Returns what a model expects before every token of `ids` from index `first` (at least 1) on, and
/// after the last one. Tokens in `lacking` are outside the model's vocabulary.
///
/// # Errors
/// A missing weight, ids outside the vocabulary, or out of memory on the device.
pub fn next_tokens<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    ids: &[u32],
    first: usize,
    lacking: &[u32],
    device: &Device,
) -> Result<Vec<NextToken>> {
    let first = first.clamp(1, ids.len().max(1));
    let mut inputs = Inputs::default();
    inputs.push(ids, first - 1..ids.len());
    let mut found = Vec::new();
    for_logits(architecture, weights, &[inputs], device, |_, chunk, logits| {
        let rows: Vec<Vec<f32>> =
            logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec2()?;
        found.extend(rows.into_iter().zip(chunk).map(|(row, at)| {
            let row = without(row, lacking);
            let next = ids.get(first + at);
            NextToken {
                likeliest: likeliest(&row),
                log_prob: next.and_then(|next| log_prob(&row, *next)),
            }
        }));
        Ok(())
    })?;
    Ok(found)
}

/// Returns the token with the largest of `logits`; of several, the first.
///
/// ```
/// use dam_prelude::eval::likeliest;
///
/// assert_eq!(likeliest(&[0.5, 2.0, 1.0, 2.0]), 1);
/// ```
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.0
}
