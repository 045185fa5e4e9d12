//! Runs a task's requests through a model: likelihoods in batches, several answers at a time.

use candle_core::{DType, Device};
use tokenizers::Tokenizer;

use super::config::Config;
use super::encode::{Request, with_tokenizer};
use super::output::Output;
use crate::checkpoint::{Architecture, Source};
use crate::data::Example;
use crate::error::Result;
use crate::eval::Likelihood;
use crate::eval::continuations::greedy_likelihoods;
use crate::eval::generate_each::generate_each;
use crate::model::{Held, Weights, collect};

/// What the model gave for a question.
#[derive(Clone, Debug)]
pub(super) enum Response {
    /// For each continuation, or window: the log-likelihood in nats, the number of its tokens, and
    /// whether each is the most likely one.
    Likelihoods(Vec<(f64, usize, bool)>),
    Text(String),
}

/// How the requests of a task are run.
pub(super) struct Runner<'a> {
    pub config: &'a Config,
    /// The source whose tokens they are.
    pub source: &'a Source,
    pub architecture: &'a Architecture,
    /// The maximum number of tokens that the model receives.
    pub max_length: usize,
    pub device: &'a Device,
    /// The dtype of the computation, if answers are generated with weights that are held as bf16.
    pub bf16_under: Option<DType>,
}

impl Runner<'_> {
    /// Runs `requests`, in their order.
    ///
    /// # Errors
    /// A missing weight, out of memory on the device, or
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn run<W: Weights + ?Sized>(
        &self,
        weights: &W,
        requests: &[Request],
    ) -> Result<Vec<Response>> {
        let architecture = self.architecture;
        match (self.config.output, self.bf16_under) {
            // Every token needs all weights.
            (Output::Generate, Some(dtype)) => {
                self.answers(&Held::new(architecture, weights, dtype, true)?, requests)
            }
            (Output::Generate, None) => self.answers(&collect(architecture, weights)?, requests),
            _ => self.likelihoods(weights, requests),
        }
    }

    fn likelihoods<W: Weights + ?Sized>(
        &self,
        weights: &W,
        requests: &[Request],
    ) -> Result<Vec<Response>> {
        let Self { architecture, max_length, device, .. } = *self;
        let examples = requests.iter().map(|request| match request {
            Request::Likelihoods(examples) => examples.as_slice(),
            Request::Generate(_) => &[],
        });
        let examples: Vec<&[Example]> = examples.collect();
        let found = greedy_likelihoods(architecture, weights, &examples, max_length, device)?;
        let response = |all: Vec<(Likelihood, bool)>| {
            let one = |(found, is_greedy): (Likelihood, bool)| {
                (found.log_likelihood, found.tokens, is_greedy)
            };
            Response::Likelihoods(all.into_iter().map(one).collect())
        };
        Ok(found.into_iter().map(response).collect())
    }

    fn answers<W: Weights + Sync>(
        &self,
        weights: &W,
        requests: &[Request],
    ) -> Result<Vec<Response>> {
        let stops = Stops::new(self.config, self.source)?;
        let prompts: Vec<&[u32]> = requests.iter().map(Request::prompt).collect();
        let mut answers = vec![Vec::new(); prompts.len()];
        let most = self.config.generation.tokens;
        generate_each(self.architecture, weights, &prompts, most, self.device, |i, token| {
            let answer: &mut Vec<u32> = &mut answers[i];
            answer.push(token);
            Ok(answer.len() < most && !stops.end(answer)?)
        })?;
        answers.iter().map(|answer| stops.cut(answer).map(Response::Text)).collect()
    }
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
