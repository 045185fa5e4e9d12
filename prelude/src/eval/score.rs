//! Loss, perplexity and exact match of a model on examples.
//!
//! Exact match means that greedy decoding reproduces the reference answer. This holds exactly if
//! every token of the answer is the most likely one given the tokens before it, so one forward pass
//! over question and answer is enough.

use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Architecture;
use crate::data::{Batch, Example};
use crate::error::Result;
use crate::interrupt;
use crate::model::{Decoder, Weights, chunks};
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
}

impl Score {
    /// Returns the fraction of correct answers: multiple choice if there are choices, else exact
    /// match.
    pub fn accuracy(&self) -> Option<f64> {
        self.multiple_choice.or(self.exact_match)
    }
}

/// The maximum number of tokens per batch.
const TOKENS: usize = 4096;

/// Scores `weights` on `examples`, each truncated to `max_length` tokens.
///
/// # Errors
/// A missing weight, or out of memory on the device.
pub fn score<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    examples: &[Example],
    max_length: usize,
    device: &Device,
) -> Result<Score> {
    let decoder = Decoder::new(architecture, weights);
    let mut tokens = 0;
    let mut loss = 0.0;
    let mut questions = 0;
    let mut exact = 0;
    let mut rest = examples;
    while !rest.is_empty() {
        interrupt::check()?;
        let (chunk, more) = rest.split_at(pack(rest, max_length));
        rest = more;
        let cut: Vec<&[u32]> =
            chunk.iter().map(|e| &e.ids[..e.ids.len().min(max_length)]).collect();
        let batch = Batch::new(cut.iter().copied(), device)?;
        let mut begin = 0;
        let mut rows = Vec::new();
        let mut targets = Vec::new();
        let mut spans = Vec::new();
        for (example, ids) in chunk.iter().zip(&cut) {
            let first = example.prompt.max(1);
            let start = targets.len();
            for at in first..ids.len() {
                rows.push((begin + at - 1) as u32);
                targets.push(ids[at]);
            }
            begin += ids.len();
            // A question counts only if its whole answer was kept.
            if example.prompt > 0 && example.prompt < example.ids.len() {
                let kept = ids.len() == example.ids.len();
                // Generation ends at the first end token; the template's text after it is ignored.
                let answer = &targets[start..];
                let end = answer
                    .iter()
                    .position(|id| architecture.eos.contains(id))
                    .map_or(answer.len(), |at| at + 1);
                spans.push((start..start + end, kept));
            }
        }
        if targets.is_empty() {
            continue;
        }
        let rows = Tensor::new(rows, device)?;
        let hidden = decoder.hidden(&batch)?.index_select(&rows, 0)?;
        let mut best = Vec::new();
        for chunk in chunks(targets.len(), architecture.vocabulary, device) {
            let logits = decoder.logits(&hidden.narrow(0, chunk.start, chunk.len())?)?;
            loss += f64::from(
                cross_entropy(&logits, &targets[chunk])?
                    .to_dtype(DType::F32)?
                    .to_scalar::<f32>()?,
            );
            best.extend(logits.argmax(D::Minus1)?.to_vec1::<u32>()?);
        }
        tokens += targets.len();
        questions += spans.len();
        exact += spans
            .into_iter()
            .filter(|(span, kept)| *kept && best[span.clone()] == targets[span.clone()])
            .count();
    }
    let loss = loss / tokens.max(1) as f64;
    let exact_match = (questions > 0).then(|| exact as f64 / questions as f64);
    Ok(Score { tokens, loss, perplexity: loss.exp(), exact_match, multiple_choice: None })
}

/// Returns the number of examples in the next batch: as many as have [`TOKENS`] tokens, and at
/// least one.
fn pack(examples: &[Example], max_length: usize) -> usize {
    let mut tokens = 0;
    let fits = |e: &&Example| {
        tokens += e.ids.len().min(max_length);
        tokens <= TOKENS
    };
    examples.iter().take_while(fits).count().max(1)
}
