//! Greedy answers to many prompts. Several are generated together, since every step reads all
//! weights, and tokens that all prompts begin with run once.

use candle_core::{D, Device, Tensor};

use super::generate::in_pool;
use super::groups::{BATCH_TOKENS, trunk};
use crate::checkpoint::Architecture;
use crate::error::Result;
use crate::interrupt;
use crate::model::{Cache, Decoder, Weights};

/// The maximum number of answers that are generated together.
const TOGETHER: usize = 16;

/// The maximum memory in bytes of their keys and values.
const CACHE_BYTES: usize = 1 << 30;

/// An answer that is being generated.
struct Answer {
    /// The index of its prompt.
    prompt: usize,
    /// Tokens to run next.
    next: Vec<u32>,
}

/// Generates greedily after each of `prompts`, which have at least one token: an answer ends where
/// `goes_on(i, token)` says so of its newest token, before an end token, or at the model's last
/// position. `most` is the number of tokens that answers have at most. Where two tokens are almost
/// equally likely, which one is generated may depend on the answers beside it.
///
/// # Errors
/// Ids outside the vocabulary, out of memory on the device, the error of `goes_on`, or
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn generate_each<W: Weights + Sync + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    prompts: &[&[u32]],
    most: usize,
    device: &Device,
    mut goes_on: impl FnMut(usize, u32) -> Result<bool>,
) -> Result<()> {
    let decoder = Decoder::new(architecture, weights);
    let mut first = Cache::default();
    // Every answer needs a token after which its first one comes.
    let begun: Vec<&[u32]> = prompts.iter().map(|ids| &ids[..ids.len().max(1) - 1]).collect();
    let shared = trunk(architecture, &begun);
    if !shared.is_empty() {
        let caches = std::slice::from_mut(&mut first);
        decoder.hidden_cached(&Tensor::new(shared, device)?, &[shared.len()], caches)?;
    }
    let longest = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0) + most;
    let together = together(architecture, longest.min(architecture.max_positions));
    let (mut answers, mut caches): (Vec<Answer>, Vec<Cache>) = Default::default();
    let has_room = |(_, ids): &(usize, &&[u32])| ids.len() < architecture.max_positions;
    let mut waiting = prompts.iter().enumerate().filter(has_room).peekable();
    loop {
        interrupt::check()?;
        let mut tokens: usize = answers.iter().map(|answer| answer.next.len()).sum();
        while let Some((prompt, ids)) = waiting.next_if(|(_, ids)| {
            let more = tokens + ids.len() - shared.len();
            answers.is_empty() || (answers.len() < together && more <= BATCH_TOKENS)
        }) {
            let next = ids[shared.len()..].to_vec();
            tokens += next.len();
            answers.push(Answer { prompt, next });
            caches.push(first.copy()?);
        }
        if answers.is_empty() {
            return Ok(());
        }
        let found = in_pool(device, || step(&decoder, &answers, &mut caches, device))?;
        let mut kept = Vec::with_capacity(answers.len());
        for ((mut answer, cache), token) in answers.drain(..).zip(caches.drain(..)).zip(found) {
            let is_end = architecture.eos.contains(&token);
            let has_room = cache.len() + 1 < architecture.max_positions;
            if !is_end && goes_on(answer.prompt, token)? && has_room {
                answer.next = vec![token];
                kept.push((answer, cache));
            }
        }
        (answers, caches) = kept.into_iter().unzip();
    }
}

/// The number of answers of at most `length` positions that are generated together.
fn together(architecture: &Architecture, length: usize) -> usize {
    let a = architecture;
    // Of keys and values in f32; a cache that grows has twice the room.
    let bytes = 2 * 4 * a.layers * a.key_value_heads * a.head_dim * 2 * length;
    (CACHE_BYTES / bytes.max(1)).clamp(1, TOGETHER)
}

/// Runs the next tokens of all answers. Returns the most likely token after each.
fn step<W: Weights + Sync + ?Sized>(
    decoder: &Decoder<'_, W>,
    answers: &[Answer],
    caches: &mut [Cache],
    device: &Device,
) -> Result<Vec<u32>> {
    let lengths: Vec<usize> = answers.iter().map(|answer| answer.next.len()).collect();
    let ids: Vec<u32> = answers.iter().flat_map(|answer| answer.next.iter().copied()).collect();
    let hidden = decoder.hidden_cached(&Tensor::new(ids, device)?, &lengths, caches)?;
    let mut end = 0;
    let last = lengths.iter().map(|length| {
        end += length;
        end as u32 - 1
    });
    let last = Tensor::new(last.collect::<Vec<u32>>(), hidden.device())?;
    let logits = decoder.logits(&hidden.index_select(&last, 0)?)?;
    Ok(logits.argmax(D::Minus1)?.to_vec1::<u32>()?)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::checkpoint::Source;
    use crate::data::Dataset;
    use crate::eval::generate;
    use crate::model::SourceWeights;

    /// More prompts than are generated together, of different lengths, with and without a common
    /// beginning, have the answers that each has alone.
    #[test]
    fn answers_are_those_of_each_prompt_alone() {
        let source = Source::open("builtin:math").unwrap();
        let architecture = source.architecture().unwrap();
        let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
        let weights = weights.collect().unwrap();
        let examples = Dataset::read("builtin:math-heldout", &source).unwrap().examples;
        let mut prompts: Vec<&[u32]> =
            examples.iter().take(40).map(|example| &example.ids[..example.prompt]).collect();
        let alone: Vec<Vec<u32>> = prompts
            .iter()
            .map(|ids| generate(architecture, &weights, ids, 12, &Device::Cpu).unwrap())
            .collect();
        assert!(!trunk(architecture, &prompts).is_empty());
        for shared in [true, false] {
            if !shared {
                prompts[3] = &prompts[3][1..];
                assert!(trunk(architecture, &prompts).is_empty());
            }
            let mut found = vec![Vec::new(); prompts.len()];
            generate_each(architecture, &weights, &prompts, 12, &Device::Cpu, |i, token| {
                found[i].push(token);
                Ok(found[i].len() < 12)
            })
            .unwrap();
            for (i, (found, alone)) in found.iter().zip(&alone).enumerate() {
                assert!(found == alone || (!shared && i == 3), "{i}");
            }
        }
    }
}
