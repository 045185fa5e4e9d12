//! Loss, perplexity and exact match of a model on examples.
//!
//! Exact match means that greedy decoding reproduces the reference answer. This holds exactly if
//! every token of the answer is the most likely one given the tokens before it, so one forward pass
//! over question and answer is enough.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, Device};
use serde::{Deserialize, Serialize};

use super::groups::{Inputs, for_logits};
use super::standard_error::mean_error;
use crate::checkpoint::Architecture;
use crate::data::Example;
use crate::error::Result;
use crate::model::Weights;
use crate::ops::cross_entropy;

/// The scores on one set of examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The number of predicted tokens: of answers, or of whole texts without answers.
    pub tokens: usize,
    /// The mean cross entropy of these tokens in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// The fraction of questions answered exactly, 0 to 1; `None` without questions.
    pub exact_match: Option<f64>,
    /// The fraction of multiple-choice questions whose correct option is the most likely, 0 to 1;
    /// `None` without such questions.
    #[serde(default)]
    pub multiple_choice: Option<f64>,
    /// The standard error of [`Score::accuracy`]; `None` for fewer than two questions.
    #[serde(default)]
    pub stderr: Option<f64>,
    /// Whether each question is answered right by that score, in order; not saved with a session.
    #[serde(skip)]
    pub right: Arc<Vec<bool>>,
}

impl Score {
    /// Returns the fraction of correct answers: multiple choice if there are choices, else exact
    /// match.
    pub fn accuracy(&self) -> Option<f64> {
        self.multiple_choice.or(self.exact_match)
    }

    /// Sets the outcomes of the questions, and their standard error.
    pub(crate) fn set_right(&mut self, right: Vec<bool>) {
        let values: Vec<f64> = right.iter().map(|right| f64::from(u8::from(*right))).collect();
        self.stderr = mean_error(&values);
        self.right = Arc::new(right);
    }
}

/// The tokens to predict in a batch.
#[derive(Default)]
struct Targets {
    ids: Vec<u32>,
    /// The answers of questions among them, and whether each was kept whole.
    answers: Vec<(Range<usize>, bool)>,
    /// The most likely tokens in their places.
    best: Vec<u32>,
}

impl Targets {
    /// Adds the tokens of `example` that are predicted, out of its first tokens `kept`.
    fn push(&mut self, architecture: &Architecture, example: &Example, kept: &[u32]) {
        let start = self.ids.len();
        self.ids.extend_from_slice(kept.get(example.prompt.max(1)..).unwrap_or_default());
        // A question counts only if its whole answer was kept.
        if example.prompt > 0 && example.prompt < example.ids.len() {
            // Generation ends at the first end token; the template's text after it is ignored.
            let answer = &self.ids[start..];
            let end = answer.iter().position(|id| architecture.eos.contains(id));
            let end = end.map_or(answer.len(), |at| at + 1);
            self.answers.push((start..start + end, kept.len() == example.ids.len()));
        }
    }
}

/// Scores `weights` on `examples`, each truncated to `max_length` tokens. Every weight is requested
/// once for up to 16384 tokens.
///
/// # Errors
/// A missing weight, ids outside the vocabulary, out of memory on the device, or
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn score<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    examples: &[Example],
    max_length: usize,
    device: &Device,
) -> Result<Score> {
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    let (mut batch, mut own) = (Inputs::default(), Targets::default());
    for example in examples {
        let ids = &example.ids[..example.ids.len().min(max_length)];
        if batch.is_full(ids.len()) {
            inputs.push(std::mem::take(&mut batch));
            targets.push(std::mem::take(&mut own));
        }
        batch.push(ids, example.prompt.max(1) - 1..ids.len().saturating_sub(1));
        own.push(architecture, example, ids);
    }
    inputs.push(batch);
    targets.push(own);
    let mut loss = 0.0;
    for_logits(architecture, weights, &inputs, device, |batch, rows, logits| {
        let Targets { ids, best, .. } = &mut targets[batch];
        let sum = cross_entropy(logits, &ids[rows])?.to_dtype(DType::F32)?;
        loss += f64::from(sum.to_scalar::<f32>()?);
        best.extend(logits.argmax(D::Minus1)?.to_vec1::<u32>()?);
        Ok(())
    })?;
    // Questions of a batch without any token to predict do not count.
    targets.retain(|batch| !batch.ids.is_empty());
    let tokens: usize = targets.iter().map(|batch| batch.ids.len()).sum();
    let exact = |batch: &Targets| {
        let right = |answer: &Range<usize>| batch.best[answer.clone()] == batch.ids[answer.clone()];
        batch.answers.iter().map(|(answer, kept)| *kept && right(answer)).collect::<Vec<bool>>()
    };
    let right: Vec<bool> = targets.iter().flat_map(exact).collect();
    let exact = right.iter().filter(|right| **right).count();
    let loss = loss / tokens.max(1) as f64;
    let exact_match = (!right.is_empty()).then(|| exact as f64 / right.len() as f64);
    let mut score = Score {
        tokens,
        loss,
        perplexity: loss.exp(),
        exact_match,
        multiple_choice: None,
        stderr: None,
        right: Arc::default(),
    };
    score.set_right(right);
    Ok(score)
}
