//! The likelihood of continuations of prompts, as in lm-evaluation-harness: the sum over the
//! continuation's tokens of `log p(token | previous tokens)`.

use std::collections::BTreeSet;
use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use super::Likelihood;
use super::groups::{Inputs, for_logits, trunk};
use crate::checkpoint::Architecture;
use crate::data::Example;
use crate::error::Result;
use crate::model::Weights;
use crate::ops::cross_entropy;

/// A continuation in a batch.
struct BatchedContinuation<'a> {
    /// The question, and the continuation in it.
    index: (usize, usize),
    /// Its rows among those of the batch.
    rows: Range<usize>,
    /// Its tokens, one per row.
    targets: &'a [u32],
}

/// Returns the likelihood under `weights` of the continuation `ids[prompt..]` of each example, for
/// each of `questions`: prompts with one or more continuations. The model receives the last
/// `max_length` tokens before a continuation's last token, so long prompts are truncated on the
/// left. Of a longer continuation, only the last `max_length` tokens count. One without tokens, or
/// without a token before it, has the log-likelihood minus infinity.
///
/// Every weight is requested once for up to 16384 tokens. Likelihoods do not depend on the other
/// questions.
///
/// ```
/// use dam_prelude::candle_core::{DType, Device};
/// use dam_prelude::checkpoint::Source;
/// use dam_prelude::{data::Example, eval::likelihoods, model::SourceWeights};
///
/// let source = Source::open("builtin:math")?;
/// let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
/// let tokenizer = source.tokenizer().unwrap();
/// let ids = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
/// let prompt = ids("<|user|>What is 12 plus 7?<|end|><|assistant|>");
/// let answer = |text| Example { ids: [prompt.clone(), ids(text)].concat(), prompt: prompt.len() };
/// let answers = [answer("12 + 7 = 19"), answer("12 + 7 = 18")];
/// let found = likelihoods(source.architecture()?, &weights, &[&answers], 256, &Device::Cpu)?;
/// assert!(found[0][0].log_likelihood > -0.1 && found[0][1].log_likelihood < -3.0);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
///
/// # Errors
/// A missing weight, ids outside the vocabulary, out of memory on the device, or
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn likelihoods<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    questions: &[&[Example]],
    max_length: usize,
    device: &Device,
) -> Result<Vec<Vec<Likelihood>>> {
    for_continuations(architecture, weights, questions, max_length, device, |_| Ok(()))
}

/// Returns likelihoods as [`likelihoods`] does, and whether every token of a continuation is the
/// most likely one in its place, so that greedy decoding would continue in the same way.
///
/// # Errors
/// As for [`likelihoods`].
pub(super) fn greedy_likelihoods<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    questions: &[&[Example]],
    max_length: usize,
    device: &Device,
) -> Result<Vec<Vec<(Likelihood, bool)>>> {
    let mut unlikely = BTreeSet::new();
    let compare = |scored: &[Scored<'_>]| {
        for Scored { index, logits, targets } in scored {
            if logits.argmax(D::Minus1)?.to_vec1::<u32>()? != *targets {
                unlikely.insert(*index);
            }
        }
        Ok(())
    };
    let found = for_continuations(architecture, weights, questions, max_length, device, compare)?;
    let is_greedy = |question, i, likelihood: &Likelihood| {
        likelihood.tokens > 0 && !unlikely.contains(&(question, i))
    };
    let each = (0..).zip(found).map(|(question, all)| {
        (0..).zip(all).map(|(i, one)| (one, is_greedy(question, i, &one))).collect()
    });
    Ok(each.collect())
}

/// Tokens of a continuation with their logits (tokens x vocabulary).
struct Scored<'a> {
    /// The question, and the continuation in it.
    index: (usize, usize),
    logits: Tensor,
    targets: &'a [u32],
}

/// Returns likelihoods as [`likelihoods`] does, and calls `take` with all logits.
fn for_continuations<'e, W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    questions: &[&'e [Example]],
    max_length: usize,
    device: &Device,
    mut take: impl FnMut(&[Scored<'e>]) -> Result<()>,
) -> Result<Vec<Vec<Likelihood>>> {
    let none = Likelihood { tokens: 0, log_likelihood: f64::NEG_INFINITY };
    let mut found: Vec<Vec<Likelihood>> =
        questions.iter().map(|examples| vec![none; examples.len()]).collect();
    let (mut inputs, mut places) = (Vec::new(), Vec::new());
    for (question, examples) in questions.iter().enumerate() {
        // The logits after the last token are not needed.
        let kept = examples.iter().map(|example| {
            let ids = &example.ids[example.ids.len().saturating_sub(max_length.max(1) + 1)..];
            (ids, &ids[..ids.len().saturating_sub(1)])
        });
        let kept: Vec<(&[u32], &[u32])> = kept.collect();
        let run: Vec<&[u32]> =
            kept.iter().map(|(_, run)| *run).filter(|run| !run.is_empty()).collect();
        // Choices share their question, which runs once. A batch has examples of one question only,
        // or its last digits would depend on others.
        let trunk = trunk(architecture, &run);
        let (mut batch, mut own) = (Inputs::beginning(trunk), Vec::new());
        let mut rows = 0;
        for (i, (example, (ids, run))) in examples.iter().zip(&kept).enumerate() {
            let count = example.ids.len() - example.prompt.min(example.ids.len());
            let count = count.min(run.len());
            if count == 0 {
                continue;
            }
            if batch.is_full(run.len()) {
                inputs.push(std::mem::replace(&mut batch, Inputs::beginning(trunk)));
                places.push(std::mem::take(&mut own));
                rows = 0;
            }
            batch.push(run, run.len() - count..run.len());
            let targets = &ids[ids.len() - count..];
            own.push(BatchedContinuation {
                index: (question, i),
                rows: rows..rows + count,
                targets,
            });
            rows += count;
            found[question][i] = Likelihood { tokens: count, log_likelihood: 0.0 };
        }
        inputs.push(batch);
        places.push(own);
    }
    for_logits(architecture, weights, &inputs, device, |batch, rows, logits| {
        let mut scored = Vec::new();
        for place in &places[batch] {
            let begin = place.rows.start.max(rows.start);
            let end = place.rows.end.min(rows.end);
            if begin < end {
                let targets = &place.targets[begin - place.rows.start..end - place.rows.start];
                let logits = logits.narrow(0, begin - rows.start, end - begin)?;
                scored.push(Scored { index: place.index, logits, targets });
            }
        }
        let loss = |one: &Scored<'_>| cross_entropy(&one.logits, one.targets);
        let losses = scored.iter().map(loss).collect::<candle_core::Result<Vec<_>>>()?;
        // One copy from the device for all.
        let losses = Tensor::stack(&losses, 0)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        for (Scored { index: (question, i), .. }, loss) in scored.iter().zip(losses) {
            found[*question][*i].log_likelihood -= f64::from(loss);
        }
        take(&scored)
    })?;
    Ok(found)
}
