//! Multiple choice: selects the option with the highest log-likelihood given the question, the sum
//! over its tokens of `log p(token | previous tokens)`, as in lm-evaluation-harness.

use candle_core::Device;

use super::{Likelihood, likelihoods};
use crate::checkpoint::Architecture;
use crate::data::{Example, Question};
use crate::error::Result;
use crate::model::Weights;

/// The result of answering multiple-choice questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// The fraction of questions whose correct option is the most likely, 0 to 1. Ties go to the
    /// first option.
    pub accuracy: f64,
    /// The likelihood of all correct options.
    pub right: Likelihood,
    /// Whether the correct option of each question is the most likely one, in order.
    pub outcomes: Vec<bool>,
}

/// Answers `questions` with `weights`, with a context of `max_length` tokens.
///
/// # Errors
/// As for [`likelihoods`].
pub fn choose<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    questions: &[Question],
    max_length: usize,
    device: &Device,
) -> Result<Choices> {
    let mut outcomes = Vec::with_capacity(questions.len());
    let mut right = Likelihood::default();
    let options: Vec<&[Example]> = questions.iter().map(|q| q.options.as_slice()).collect();
    let scored = likelihoods(architecture, weights, &options, max_length, device)?;
    for (question, options) in questions.iter().zip(scored) {
        let Some(found) = options.get(question.right) else { continue };
        let before = &options[..question.right];
        let after = &options[question.right + 1..];
        let is_best = before.iter().all(|other| other.log_likelihood < found.log_likelihood)
            && after.iter().all(|other| other.log_likelihood <= found.log_likelihood);
        outcomes.push(is_best);
        right.tokens += found.tokens;
        right.log_likelihood += found.log_likelihood;
    }
    let correct = outcomes.iter().filter(|right| **right).count();
    Ok(Choices { accuracy: correct as f64 / questions.len().max(1) as f64, right, outcomes })
}

/// Returns the likelihood of each option of `question` under `weights`, as [`likelihoods`] does.
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
    let found = likelihoods(architecture, weights, &[&question.options], max_length, device)?;
    Ok(found.into_iter().next().unwrap_or_default())
}
