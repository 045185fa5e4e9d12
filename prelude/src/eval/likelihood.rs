//! The likelihood of another model's answer: `log p(token | previous tokens)` for each token, from
//! one forward pass over prompt and answer (teacher forcing).

use candle_core::{DType, Device};
use serde::Serialize;

use super::groups::{Inputs, for_logits};
use crate::checkpoint::Architecture;
use crate::error::Result;
use crate::model::Weights;

/// The smallest difference in log-probability that counts, in nats.
///
/// Sources that know an answer assign most of its tokens log-probabilities near 0, and which of
/// them is the highest is noise. 0.05 nats correspond to a probability ratio of 1.05.
pub const MARGIN: f64 = 0.05;

/// The likelihood of a sequence of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Likelihood {
    /// The number of scored tokens: those in the model's vocabulary.
    pub tokens: usize,
    /// The sum of their log-probabilities, in nats.
    pub log_likelihood: f64,
}

impl Likelihood {
    /// Sums log-probabilities; `None` entries are skipped.
    pub fn of(log_probs: impl IntoIterator<Item = Option<f64>>) -> Self {
        let add = |sum: Self, x: f64| Self {
            tokens: sum.tokens + 1,
            log_likelihood: sum.log_likelihood + x,
        };
        log_probs.into_iter().flatten().fold(Self::default(), add)
    }

    /// Returns the mean log-probability per token in nats; `None` without tokens.
    pub fn nats_per_token(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.log_likelihood / self.tokens as f64)
    }

    /// Returns `exp(-nats_per_token)`; `None` without tokens.
    pub fn perplexity(&self) -> Option<f64> {
        self.nats_per_token().map(|mean| (-mean).exp())
    }
}

/// Returns the log-probability in nats of every token of `ids` from index `first` (at least 1),
/// given all tokens before it. Tokens in `lacking` are outside the model's vocabulary: they have
/// none, and the others share the probability.
///
/// # Errors
/// A missing weight, ids outside the vocabulary, or out of memory on the device.
pub fn log_probs<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    ids: &[u32],
    first: usize,
    lacking: &[u32],
    device: &Device,
) -> Result<Vec<Option<f64>>> {
    let first = first.max(1);
    let Some(targets) = ids.get(first..).filter(|targets| !targets.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut inputs = Inputs::default();
    // The logits after the last token are not needed.
    inputs.push(&ids[..ids.len() - 1], first - 1..ids.len() - 1);
    let mut found = Vec::with_capacity(targets.len());
    for_logits(architecture, weights, &[inputs], device, |_, chunk, logits| {
        let rows: Vec<Vec<f32>> =
            logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec2()?;
        found.extend(
            rows.into_iter()
                .zip(&targets[chunk])
                .map(|(row, target)| log_prob(&without(row, lacking), *target)),
        );
        Ok(())
    })?;
    Ok(found)
}

/// Returns `logits` with minus infinity for the tokens `lacking`.
pub(crate) fn without(mut logits: Vec<f32>, lacking: &[u32]) -> Vec<f32> {
    for id in lacking {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    logits
}

/// Computes `log softmax(logits)[target]`; `None` for a token whose logit is not finite.
pub(crate) fn log_prob(logits: &[f32], target: u32) -> Option<f64> {
    let target = f64::from(*logits.get(target as usize)?);
    target.is_finite().then(|| target - log_sum_exp(logits))
}

/// Computes `ln sum_v exp(logits[v])`, summed in f64.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    f64::from(largest) + sum.ln()
}

/// Returns the index of the highest of `log_probs`, if it exceeds every other by more than
/// [`MARGIN`]. Returns `None` if fewer than two have a value.
///
/// ```
/// use dam_prelude::eval::favoured;
///
/// assert_eq!(favoured(&[Some(-0.1), None, Some(-3.0)]), Some(0));
/// assert_eq!(favoured(&[Some(-0.01), Some(-0.02), Some(-3.0)]), None);
/// assert_eq!(favoured(&[None, Some(-0.01)]), None);
/// ```
pub fn favoured(log_probs: &[Option<f64>]) -> Option<usize> {
    let mut known: Vec<(usize, f64)> =
        log_probs.iter().enumerate().filter_map(|(i, x)| Some((i, (*x)?))).collect();
    known.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    match known.as_slice() {
        [(best, highest), (_, second), ..] if highest - second > MARGIN => Some(*best),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: logits `ln 1`, `ln 2`, `ln 5` are probabilities 1/8, 2/8 and 5/8; without the last,
    /// 1/3 and 2/3.
    #[test]
    fn log_probs_exclude_missing_tokens() {
        let logits = || [1f32, 2.0, 5.0].map(f32::ln).to_vec();
        let close = |found: Option<f64>, p: f64| {
            assert!((found.unwrap() - p.ln()).abs() < 1e-6, "{found:?} {p}")
        };
        close(log_prob(&logits(), 0), 1.0 / 8.0);
        close(log_prob(&logits(), 2), 5.0 / 8.0);
        close(log_prob(&without(logits(), &[2]), 1), 2.0 / 3.0);
        assert_eq!((log_prob(&without(logits(), &[2]), 2), log_prob(&logits(), 3)), (None, None));
    }

    #[test]
    fn likelihoods_skip_missing_tokens() {
        let found = Likelihood::of([Some(-1.0), None, Some(-2.0)]);
        assert_eq!(
            (found.tokens, found.log_likelihood, found.nats_per_token()),
            (2, -3.0, Some(-1.5))
        );
        assert_eq!(found.perplexity(), Some(1.5f64.exp()));
        assert_eq!(Likelihood::of([None]).perplexity(), None);
    }
}
