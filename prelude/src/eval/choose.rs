//! Multiple choice: selects the option with the highest log-likelihood given the question, the sum
//! over its tokens of `log p(token | previous tokens)`, as in lm-evaluation-harness.

use candle_core::{DType, Device, Tensor};

use super::Likelihood;
use crate::checkpoint::Architecture;
use crate::data::{Batch, Question};
use crate::error::Result;
use crate::interrupt;
use crate::model::{Decoder, Weights};
use crate::ops::cross_entropy;

/// The result of answering multiple-choice questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// The fraction of questions whose correct option is the most likely, 0 to 1. Ties go to the
    /// first option.
    pub accuracy: f64,
    /// The likelihood of all correct options.
    pub right: Likelihood,
}

/// Answers `questions` with `weights`, with a context of `max_length` tokens.
///
/// # Errors
/// A missing weight, or out of memory on the device.
pub fn choose<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    questions: &[Question],
    max_length: usize,
    device: &Device,
) -> Result<Choices> {
    let mut correct = 0;
    let mut right = Likelihood::default();
    for question in questions {
        interrupt::check()?;
        let options = option_likelihoods(architecture, weights, question, max_length, device)?;
        let Some(found) = options.get(question.right) else { continue };
        let before = &options[..question.right];
        let after = &options[question.right + 1..];
        let is_best = before.iter().all(|other| other.log_likelihood < found.log_likelihood)
            && after.iter().all(|other| other.log_likelihood <= found.log_likelihood);
        correct += usize::from(is_best);
        right.tokens += found.tokens;
        right.log_likelihood += found.log_likelihood;
    }
    Ok(Choices { accuracy: correct as f64 / questions.len().max(1) as f64, right })
}

/// Returns the likelihood of each option of `question` under `weights`. The model receives the last
/// `max_length` tokens before an option's last token, so long questions are truncated on the left.
/// Of a longer option, only the last `max_length` tokens count.
///
/// # Errors
/// As for [`choose`].
pub fn option_likelihoods<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    question: &Question,
    max_length: usize,
    device: &Device,
) -> Result<Vec<Likelihood>> {
    let cut: Vec<&[u32]> = question
        .options
        .iter()
        .map(|e| &e.ids[e.ids.len().saturating_sub(max_length.max(1) + 1)..])
        .collect();
    let decoder = Decoder::new(architecture, weights);
    // The logits after the last token are not needed.
    let hidden = decoder
        .hidden(&Batch::new(cut.iter().map(|ids| &ids[..ids.len().saturating_sub(1)]), device)?)?;
    let mut begin = 0;
    let one = |(option, ids): (&crate::data::Example, &&[u32])| {
        let inputs = ids.len().saturating_sub(1);
        let count = (option.ids.len() - option.prompt.min(option.ids.len())).min(inputs);
        let rows = hidden.narrow(0, begin + inputs - count, count)?;
        begin += inputs;
        let log_likelihood = match count {
            // An option without tokens is never chosen.
            0 => f64::NEG_INFINITY,
            _ => -loss(&decoder.logits(&rows)?, &ids[ids.len() - count..])?,
        };
        Ok(Likelihood { tokens: count, log_likelihood })
    };
    question.options.iter().zip(&cut).map(one).collect()
}

/// Returns the sum of the cross entropy of `targets`, in nats.
fn loss(logits: &Tensor, targets: &[u32]) -> Result<f64> {
    Ok(f64::from(cross_entropy(logits, targets)?.to_dtype(DType::F32)?.to_scalar::<f32>()?))
}
