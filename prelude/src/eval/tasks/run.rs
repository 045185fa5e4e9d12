//! Runs a task's requests through a model: likelihoods in batches, several answers at a time.

use candle_core::Device;
use tokenizers::Tokenizer;

use super::config::Config;
use super::encode::{Request, with_tokenizer};
use super::output::Output;
use crate::checkpoint::{Architecture, Source};
use crate::data::Example;
use crate::error::Result;
use crate::eval::continuations::greedy_likelihoods;
use crate::eval::generate_each::generate_each;
use crate::model::{Weights, collect};

/// What the model gave for a question.
#[derive(Clone, Debug)]
pub(super) enum Response {
    /// For each continuation, or window: the log-likelihood in nats, the number of its tokens, and
    /// whether each is the most likely one.
    Likelihoods(Vec<(f64, usize, bool)>),
    Text(String),
}

/// Runs `requests`, in their order.
///
/// # Errors
/// A missing weight, out of memory on the device, or [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn run<W: Weights + ?Sized>(
    config: &Config,
    source: &Source,
    architecture: &Architecture,
    weights: &W,
    requests: &[Request],
    max_length: usize,
    device: &Device,
) -> Result<Vec<Response>> {
    if config.output != Output::Generate {
        let examples = requests.iter().map(|request| match request {
            Request::Likelihoods(examples) => examples.as_slice(),
            Request::Generate(_) => &[],
        });
        let examples: Vec<&[Example]> = examples.collect();
        let found = greedy_likelihoods(architecture, weights, &examples, max_length, device)?;
        let response = |all: Vec<(crate::eval::Likelihood, bool)>| {
            let one = |(found, is_greedy): (crate::eval::Likelihood, bool)| {
                (found.log_likelihood, found.tokens, is_greedy)
            };
            Response::Likelihoods(all.into_iter().map(one).collect())
        };
        return Ok(found.into_iter().map(response).collect());
    }
    // Every token needs all weights.
    let weights = collect(architecture, weights)?;
    let stops = Stops::new(config, source)?;
    let prompts: Vec<&[u32]> = requests.iter().map(Request::prompt).collect();
    let mut answers = vec![Vec::new(); prompts.len()];
    let most = config.generation.tokens;
    generate_each(architecture, &weights, &prompts, most, device, |i, token| {
        let answer: &mut Vec<u32> = &mut answers[i];
        answer.push(token);
        Ok(answer.len() < most && !stops.end(answer)?)
    })?;
    answers.iter().map(|answer| stops.cut(answer).map(Response::Text)).collect()
}

/// The texts that end an answer.
struct Stops<'a> {
    source: &'a Source,
    /// Each with the number of tokens at the end of an answer among which it is looked for.
    texts: Vec<(String, usize)>,
}

impl<'a> Stops<'a> {
    fn new(config: &Config, source: &'a Source) -> Result<Self> {
        let mut stops = Self { source, texts: Vec::new() };
        let end = source.chat().tokens.get("eos_token");
        let mut texts = config.generation.until.clone();
        texts.extend(end.filter(|end| !texts.contains(end)).cloned());
        for text in texts.into_iter().filter(|text| !text.is_empty()) {
            let encode =
                |tokenizer: &Tokenizer| Ok(tokenizer.encode_fast(text.as_str(), false)?.len());
            // Two more than it takes, since other tokens may make the same text.
            let tokens = with_tokenizer(source, encode)? + 2;
            stops.texts.push((text, tokens));
        }
        Ok(stops)
    }

    /// Whether the answer `ids` ends with one of the texts, special tokens included.
    fn end(&self, ids: &[u32]) -> Result<bool> {
        for (text, tokens) in &self.texts {
            let tail = &ids[ids.len().saturating_sub(*tokens)..];
            if with_tokenizer(self.source, |tokenizer| tokenizer.decode(tail, false))?
                .contains(text)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The answer up to the first of the texts, without special tokens.
    fn cut(&self, ids: &[u32]) -> Result<String> {
        let mut answer = with_tokenizer(self.source, |tokenizer| tokenizer.decode(ids, true))?;
        for (text, _) in &self.texts {
            if let Some(at) = answer.find(text) {
                answer.truncate(at);
            }
        }
        Ok(answer)
    }
}
