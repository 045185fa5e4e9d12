//! Forward passes over many batches. A weight may be converted or merged at every request, so each
//! is requested once for a group of batches, not once for each of them.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::checkpoint::{Architecture, Rope};
use crate::data::Batch;
use crate::error::Result;
use crate::interrupt;
use crate::model::{Decoder, Weights, chunks};

/// The maximum number of tokens of a batch, unless it has one sequence.
pub(super) const BATCH_TOKENS: usize = 4096;

/// The maximum number of tokens of a group, unless it has one batch. Two hidden states of each are
/// in memory at most, 128 MiB per 1024 hidden units in f32, beside one layer's weights and one
/// batch's activations. Every weight takes part in 32768 operations per request, which take far
/// longer than to read, convert or merge it.
const GROUP_TOKENS: usize = 4 * BATCH_TOKENS;

/// A batch of sequences, and the tokens after which logits are needed.
#[derive(Default)]
pub(super) struct Inputs<'a> {
    /// The tokens that all sequences begin with.
    trunk: &'a [u32],
    /// What follows the trunk in each sequence that has more.
    rests: Vec<&'a [u32]>,
    tokens: usize,
    /// Indices of tokens, counted through the trunk and all rests.
    rows: Vec<u32>,
}

impl<'a> Inputs<'a> {
    /// No sequences yet; all will begin with `trunk`, which runs once.
    pub fn beginning(trunk: &'a [u32]) -> Self {
        Self { trunk, tokens: trunk.len(), ..Self::default() }
    }

    /// Adds `sequence`, for the logits after its tokens `after`. Without any, it is not run.
    pub fn push(&mut self, sequence: &'a [u32], after: Range<usize>) {
        if after.is_empty() {
            return;
        }
        let trunk = self.trunk.len();
        let row = |token| if token < trunk { token } else { self.tokens + token - trunk };
        self.rows.extend(after.map(|token| row(token) as u32));
        let rest = &sequence[trunk.min(sequence.len())..];
        if !rest.is_empty() {
            self.rests.push(rest);
            self.tokens += rest.len();
        }
    }

    /// Whether a sequence of `tokens` tokens more would be too many for one batch.
    pub fn is_full(&self, tokens: usize) -> bool {
        !self.rows.is_empty() && self.tokens + tokens - self.trunk.len() > BATCH_TOKENS
    }
}

/// Returns the tokens that all of `sequences` begin with, if there are several and their positions
/// do not depend on their lengths.
pub(super) fn trunk<'a>(architecture: &Architecture, sequences: &[&'a [u32]]) -> &'a [u32] {
    let [first, rest @ ..] = sequences else { return &[] };
    let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let shared = rest.iter().map(|other| common(first, other)).min().unwrap_or(0);
    let longest = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let is_fixed = |rope: &Rope| {
        (0..rope.dims / 2).all(|k| rope.frequency(k, shared) == rope.frequency(k, longest))
    };
    if architecture.ropes.iter().all(is_fixed) { &first[..shared] } else { &[] }
}

/// Calls `take(i, rows, logits)` for every batch `inputs[i]`, in order, with the logits (rows x
/// vocabulary) of a range of its rows at a time. The logits of a batch do not depend on the others.
///
/// # Errors
/// A missing weight, ids outside the vocabulary, out of memory on the device,
/// [`Error::Interrupted`](crate::Error::Interrupted), or the error of `take`.
pub(super) fn for_logits<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    inputs: &[Inputs<'_>],
    device: &Device,
    mut take: impl FnMut(usize, Range<usize>, &Tensor) -> Result<()>,
) -> Result<()> {
    let decoder = Decoder::new(architecture, weights);
    let used: Vec<usize> = (0..inputs.len()).filter(|i| !inputs[*i].rows.is_empty()).collect();
    for group in groups(used.iter().map(|i| inputs[*i].tokens)) {
        interrupt::check()?;
        let group = &used[group];
        let batch =
            |i: &usize| Batch::branches(inputs[*i].trunk, inputs[*i].rests.iter().copied(), device);
        let hidden = decoder.hidden_each(&group.iter().map(batch).collect::<Result<Vec<_>>>()?)?;
        let output = architecture.output();
        let output = BTreeMap::from([(output.to_owned(), weights.weight(output)?)]);
        let last = Decoder::new(architecture, &output);
        for (i, hidden) in group.iter().zip(hidden) {
            let rows = &inputs[*i].rows;
            let hidden = hidden.index_select(&Tensor::new(rows.as_slice(), device)?, 0)?;
            for chunk in chunks(rows.len(), architecture.vocabulary, device) {
                let logits = last.logits(&hidden.narrow(0, chunk.start, chunk.len())?)?;
                take(*i, chunk, &logits)?;
            }
        }
    }
    Ok(())
}

/// Splits batches of `tokens` tokens into groups of at most [`GROUP_TOKENS`], in order.
fn groups(tokens: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut sum = 0;
    for (i, tokens) in tokens.enumerate() {
        sum += tokens;
        match groups.last_mut().filter(|_| sum <= GROUP_TOKENS) {
            Some(group) => group.end = i + 1,
            None => {
                groups.push(i..i + 1);
                sum = tokens;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use candle_core::{DType, IndexOp};

    use super::*;
    use crate::checkpoint::{Source, TensorSpec};
    use crate::data::{Dataset, Example};
    use crate::eval::{Likelihood, likelihoods, score};
    use crate::model::SourceWeights;

    /// Counts the requests for each weight, and for rows of it.
    struct Counted<'a>(SourceWeights<'a>, Mutex<BTreeMap<String, usize>>);

    impl Counted<'_> {
        fn count(&self, name: &str) {
            *self.1.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        }
    }

    impl Weights for Counted<'_> {
        fn weight(&self, name: &str) -> Result<Tensor> {
            self.count(name);
            self.0.weight(name)
        }

        fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
            self.count(name);
            self.0.rows(name, ids)
        }
    }

    fn weights(source: &Source) -> SourceWeights<'_> {
        SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 }
    }

    /// Prompts of the training data, each with its own answer and some of the following ones.
    fn questions(source: &Source, count: usize) -> Vec<Vec<Example>> {
        let examples = Dataset::read("builtin:math", source).unwrap().examples;
        let answer = |prompt: &Example, of: &Example| Example {
            ids: [&prompt.ids[..prompt.prompt], &of.ids[of.prompt..]].concat(),
            prompt: prompt.prompt,
        };
        let question = |i: usize| {
            let own = &examples[i % examples.len()];
            let others = (0..=i % 4).map(|k| &examples[(i + k) % examples.len()]);
            others.map(|of| answer(own, of)).collect()
        };
        (0..count).map(question).collect()
    }

    fn tokens(questions: &[Vec<Example>]) -> usize {
        questions.iter().flatten().map(|example| example.ids.len() - 1).sum()
    }

    #[test]
    fn groups_cover_all_batches_and_are_bounded() {
        const MOST: usize = GROUP_TOKENS;
        let split = |tokens: &[usize]| groups(tokens.iter().copied());
        assert!(split(&[]).is_empty());
        assert_eq!(split(&[MOST + 1, 1, MOST - 1, 1]), [0..1, 1..3, 3..4]);
        assert_eq!(split(&[1, MOST, MOST, MOST / 2, MOST / 2]), [0..1, 1..2, 2..3, 3..5]);
    }

    /// The embedding, which is also the output layer here, is requested as rows and as a whole.
    #[test]
    fn each_weight_is_requested_once_for_many_questions() {
        let source = Source::open("builtin:math").unwrap();
        let architecture = source.architecture().unwrap();
        let questions = questions(&source, 40);
        let examples: Vec<Example> = questions.concat();
        let questions: Vec<&[Example]> = questions.iter().map(Vec::as_slice).collect();
        let expected: BTreeMap<String, usize> =
            architecture
                .tensors()
                .into_iter()
                .map(|spec| {
                    if spec.name == TensorSpec::EMBEDDING { (spec.name, 2) } else { (spec.name, 1) }
                })
                .collect();
        for scored in [true, false] {
            let counted = Counted(weights(&source), Mutex::default());
            if scored {
                score(architecture, &counted, &examples, 256, &Device::Cpu).unwrap();
            } else {
                likelihoods(architecture, &counted, &questions, 256, &Device::Cpu).unwrap();
            }
            assert_eq!(*counted.1.lock().unwrap(), expected);
        }
    }

    /// Computes `log p` of the last `count` tokens from all logits of a decoder, in f64.
    fn directly(source: &Source, ids: &[u32], count: usize) -> f64 {
        let weights = weights(source);
        let decoder = Decoder::new(source.architecture().unwrap(), &weights);
        let hidden = decoder.hidden(&Batch::new([ids], &Device::Cpu).unwrap()).unwrap();
        let logits = decoder.logits(&hidden).unwrap().to_dtype(DType::F64).unwrap();
        let log_prob = |at: usize| {
            let row: Vec<f64> = logits.i(at - 1).unwrap().to_vec1().unwrap();
            let sum: f64 = row.iter().map(|z| z.exp()).sum();
            row[ids[at] as usize] - sum.ln()
        };
        (ids.len() - count..ids.len()).map(log_prob).sum()
    }

    /// More questions than fit into a group have the likelihoods that each has alone, bit by bit.
    /// Some are computed directly, with limits that cut prompts and continuations on the left.
    #[test]
    fn likelihoods_do_not_depend_on_the_grouping() {
        let source = Source::open("builtin:math").unwrap();
        let architecture = source.architecture().unwrap();
        let run = |questions: &[&[Example]], limit: usize| {
            likelihoods(architecture, &weights(&source), questions, limit, &Device::Cpu).unwrap()
        };
        let mut questions = questions(&source, 250);
        // More than one batch, and continuations without tokens or without a token before them.
        questions[1] = questions.concat()[..250].to_vec();
        questions[2].extend(
            [(vec![5], 0), (vec![], 0), (vec![5, 6], 2), (vec![5, 6], 0)]
                .map(|(ids, prompt)| Example { ids, prompt }),
        );
        assert!(tokens(&questions[1..2]) > BATCH_TOKENS && tokens(&questions) > GROUP_TOKENS);
        let all: Vec<&[Example]> = questions.iter().map(Vec::as_slice).collect();
        let found = run(&all, 256);
        for (question, found) in all.iter().zip(&found) {
            assert_eq!(run(&[question], 256), std::slice::from_ref(found));
        }
        let none = Likelihood { tokens: 0, log_likelihood: f64::NEG_INFINITY };
        let end = &found[2][found[2].len() - 4..];
        assert_eq!((&end[..3], end[3].tokens), ([none; 3].as_slice(), 1));
        for limit in [256, 16, 3] {
            let found = run(&all[..1], limit).into_iter().chain(run(&all[3..8], limit));
            let examples = all[..1].iter().chain(&all[3..8]).copied().flatten();
            for (found, example) in found.flatten().zip(examples) {
                let ids = &example.ids[example.ids.len().saturating_sub(limit + 1)..];
                let count = (example.ids.len() - example.prompt).min(ids.len() - 1);
                let expected = directly(&source, ids, count);
                assert_eq!(found.tokens, count);
                let error = (found.log_likelihood - expected).abs();
                assert!(error < 1e-5 * expected.abs().max(10.0), "{found:?} {expected}");
            }
        }
    }
}
