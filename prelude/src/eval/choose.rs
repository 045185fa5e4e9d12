//! Multiple choice: the option that a model finds likeliest after the question, by the sum over its tokens of
//! `log p(token | what is before it)`, as lm-evaluation-harness computes it.

use candle_core::{DType, Device, Tensor};

use super::Likelihood;
use crate::checkpoint::Architecture;
use crate::data::{Batch, Question};
use crate::error::Result;
use crate::interrupt;
use crate::model::{Decoder, Weights};
use crate::ops::cross_entropy;

/// How a model chose among the options of questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// The share of questions whose right option is the likeliest, 0 to 1; of options that are as likely the first
    /// counts.
    pub accuracy: f64,
    /// The likelihood of all right options.
    pub right: Likelihood,
}

/// Lets `weights` choose among the options of `questions`, each seen through `max_length` tokens.
///
/// # Errors
/// A missing weight, or a device that has no room.
pub fn choose<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    questions: &[Question],
    max_length: usize,
    device: &Device,
) -> Result<Choices> {
    let (mut correct, mut right) = (0, Likelihood::default());
    for question in questions {
        interrupt::check()?;
        let options = option_likelihoods(architecture, weights, question, max_length, device)?;
        let Some(found) = options.get(question.right) else { continue };
        let (before, after) = (&options[..question.right], &options[question.right + 1..]);
        let is_best = before.iter().all(|other| other.log_likelihood < found.log_likelihood)
            && after.iter().all(|other| other.log_likelihood <= found.log_likelihood);
        correct += usize::from(is_best);
        right.tokens += found.tokens;
        right.log_likelihood += found.log_likelihood;
    }
    Ok(Choices { accuracy: correct as f64 / questions.len().max(1) as f64, right })
}

/// How likely `weights` finds each option of `question`. The model is given the last `max_length` tokens before an
/// option's last one, so that a long question is cut on the left; of an option that is longer than that its last
/// `max_length` tokens count.
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
    let cut: Vec<&[u32]> = question.options.iter().map(|e| &e.ids[e.ids.len().saturating_sub(max_length.max(1) + 1)..]).collect();
    let decoder = Decoder::new(architecture, weights);
    // What follows the last token is not asked for.
    let hidden = decoder.hidden(&Batch::new(cut.iter().map(|ids| &ids[..ids.len().saturating_sub(1)]), device)?)?;
    let mut begin = 0;
    let one = |(option, ids): (&crate::data::Example, &&[u32])| {
        let inputs = ids.len().saturating_sub(1);
        let count = (option.ids.len() - option.prompt.min(option.ids.len())).min(inputs);
        let rows = hidden.narrow(0, begin + inputs - count, count)?;
        begin += inputs;
        let log_likelihood = match count {
            // An option of no tokens is not said at all.
            0 => f64::NEG_INFINITY,
            _ => -loss(&decoder.logits(&rows)?, &ids[ids.len() - count..])?,
        };
        Ok(Likelihood { tokens: count, log_likelihood })
    };
    question.options.iter().zip(&cut).map(one).collect()
}

/// The cross entropy of `targets` in nats, a sum.
fn loss(logits: &Tensor, targets: &[u32]) -> Result<f64> {
    Ok(f64::from(cross_entropy(logits, targets)?.to_dtype(DType::F32)?.to_scalar::<f32>()?))
}
