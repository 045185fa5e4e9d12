//! Multiple choice: the option that a model finds likeliest after the question, by the sum over its tokens of
//! `log p(token | what is before it)`.

use candle_core::{DType, Device, Tensor};

use crate::checkpoint::Architecture;
use crate::data::{Batch, Question};
use crate::error::Result;
use crate::model::{Decoder, Weights};
use crate::ops::cross_entropy;

/// The share of `questions` whose right option is the likeliest, 0 to 1; of options that are as likely the first
/// counts. Each option is cut at `max_length` tokens.
///
/// # Errors
/// A missing weight, or a device that has no room.
pub fn choose<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    questions: &[Question],
    max_length: usize,
    device: &Device,
) -> Result<f64> {
    let decoder = Decoder::new(architecture, weights);
    let mut right = 0;
    for question in questions {
        let cut: Vec<&[u32]> = question.options.iter().map(|e| &e.ids[..e.ids.len().min(max_length)]).collect();
        let batch = Batch::new(cut.iter().copied(), device)?;
        let hidden = decoder.hidden(&batch)?;
        let (mut begin, mut best) = (0, (f64::NEG_INFINITY, 0));
        for (i, (option, ids)) in question.options.iter().zip(&cut).enumerate() {
            let first = option.prompt.max(1).min(ids.len());
            let rows = hidden.narrow(0, begin + first - 1, ids.len() - first)?;
            begin += ids.len();
            let likelihood = match ids.len() - first {
                0 => 0.0,
                _ => -loss(&decoder.logits(&rows)?, &ids[first..])?,
            };
            if likelihood > best.0 {
                best = (likelihood, i);
            }
        }
        right += usize::from(best.1 == question.right);
    }
    Ok(right as f64 / questions.len().max(1) as f64)
}

/// The cross entropy of `targets` in nats, a sum.
fn loss(logits: &Tensor, targets: &[u32]) -> Result<f64> {
    Ok(f64::from(cross_entropy(logits, targets)?.to_dtype(DType::F32)?.to_scalar::<f32>()?))
}
