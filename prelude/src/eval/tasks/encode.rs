//! Questions as tokens, with the harness's rules for its transformers models.
//!
//! A context and its continuation are encoded together; the tokens of the context alone come first,
//! and spaces at its end belong to the continuation. After an empty context, the continuation
//! follows the BOS token, or else the EOS token, which also precedes whole texts. Special tokens
//! are those that the tokenizer adds, unless the text begins with the BOS token itself.

use tokenizers::Tokenizer;

use super::config::Config;
use super::keys::bad;
use super::output::Output;
use super::questions::Question;
use crate::checkpoint::{Source, guard_tokenizer};
use crate::data::{Example, is_space};
use crate::error::{Error, Result};
use crate::interrupt;

/// What the model runs for a question.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Likelihoods: of each continuation, or of the windows of a text.
    Likelihoods(Vec<Example>),
    /// An answer after these tokens.
    Generate(Vec<u32>),
}

impl Request {
    /// The tokens to generate after.
    pub fn prompt(&self) -> &[u32] {
        match self {
            Self::Likelihoods(_) => &[],
            Self::Generate(prompt) => prompt,
        }
    }
}

/// Calls `work` with the tokenizer of `source`, which has one.
///
/// # Errors
/// What the tokenizer refuses, or a damaged one.
pub(super) fn with_tokenizer<T: Default>(
    source: &Source,
    work: impl FnOnce(&Tokenizer) -> tokenizers::Result<T>,
) -> Result<T> {
    let file = source.path().join("tokenizer.json");
    guard_tokenizer(&file, || source.tokenizer().map_or(Ok(T::default()), work))
}

/// Encodes the texts of a task for one source.
pub(super) struct Encoder<'a> {
    config: &'a Config,
    source: &'a Source,
    /// The maximum number of tokens that the model receives.
    max_length: usize,
}

impl<'a> Encoder<'a> {
    /// # Errors
    /// A source without a tokenizer, or a length that leaves no room for an answer.
    pub fn new(config: &'a Config, source: &'a Source, max_length: usize) -> Result<Self> {
        if source.tokenizer().is_none() {
            return Err(Error::Sources {
                what: format!("`{}` has no tokenizer, which tasks need", source.name()),
                hint: "put tokenizer.json next to the weights",
            });
        }
        let tokens = config.generation.tokens;
        if config.output == Output::Generate && tokens >= max_length {
            let reason = format!(
                "an answer of {tokens} tokens leaves no room for a question: the model has {max_length} positions"
            );
            let hint = "lower max_gen_toks";
            return Err(bad(&config.file, "`generation_kwargs.max_gen_toks`", reason, hint));
        }
        Ok(Self { config, source, max_length })
    }

    /// The request of `question`.
    ///
    /// # Errors
    /// A text that cannot be encoded, a continuation without tokens, or one that does not fit.
    pub fn request(&self, question: &Question) -> Result<Request> {
        interrupt::check()?;
        match self.config.output {
            Output::Generate => {
                let context = &question.contexts[0];
                let own = self.special("bos_token");
                let begins = own.is_some_and(|bos| context.starts_with(bos));
                let ids = self.encode(context, !begins, question)?;
                let room = self.max_length - self.config.generation.tokens;
                let ids = ids[ids.len().saturating_sub(room)..].to_vec();
                if ids.is_empty() {
                    Err(self.bad(question, "its context has no tokens", "add a text"))
                } else {
                    Ok(Request::Generate(ids))
                }
            }
            Output::Rolling => self.windows(question).map(Request::Likelihoods),
            Output::MultipleChoice | Output::Likelihood => {
                let contexts = question.contexts.iter().cycle();
                let pair = |(context, continuation): (&String, &String)| {
                    self.pair(context, continuation, question)
                };
                let mut pairs =
                    contexts.zip(&question.continuations).map(pair).collect::<Result<Vec<_>>>()?;
                if self.config.metrics.iter().any(|metric| metric.is_mutual()) {
                    for continuation in &question.continuations {
                        pairs.push(self.pair("", continuation, question)?);
                    }
                }
                Ok(Request::Likelihoods(pairs))
            }
        }
    }

    fn bad(&self, question: &Question, reason: &str, hint: &str) -> Error {
        let (split, number) = (self.config.split(), question.index + 1);
        bad(&self.config.file, format!("document {number} of {split}"), reason, hint)
    }

    /// The text of a special token.
    fn special(&self, name: &str) -> Option<&'a str> {
        self.source.chat().tokens.get(name).map(String::as_str)
    }

    /// The text and id of the token before what has no context.
    fn prefix(&self, question: &Question) -> Result<(&'a str, u32)> {
        let token = self.special("bos_token").or(self.special("eos_token"));
        let id = token.and_then(|token| self.source.tokenizer()?.token_to_id(token));
        match token.zip(id) {
            Some((token, id)) => Ok((token, self.row(id, question)?)),
            None => {
                let reason = "a text without a context follows the BOS or EOS token, and the tokenizer names neither";
                Err(self.bad(
                    question,
                    reason,
                    "set bos_token or eos_token in tokenizer_config.json",
                ))
            }
        }
    }

    /// The row of the token `id`.
    fn row(&self, id: u32, question: &Question) -> Result<u32> {
        let out = || {
            let vocabulary = self.source.original().architecture().map_or(0, |a| a.vocabulary);
            let token = self.source.tokenizer().and_then(|t| t.id_to_token(id));
            let file = self.config.file.clone();
            let (unit, line) = ("document", question.index + 1);
            Error::TokenOutOfRange { file, unit, line, id, token, vocabulary }
        };
        self.source.row_of(id).ok_or_else(out)
    }

    fn encode(&self, text: &str, special: bool, question: &Question) -> Result<Vec<u32>> {
        let longest = self.source.longest_text();
        if text.len() > longest {
            let reason = format!(
                "its text has {} bytes; the tokenizer accepts at most {longest}",
                text.len()
            );
            return Err(self.bad(question, &reason, "shorten it, or use fewer examples"));
        }
        let ids = with_tokenizer(self.source, |tokenizer| {
            Ok(tokenizer.encode_fast(text, special)?.get_ids().to_vec())
        })?;
        ids.into_iter().map(|id| self.row(id, question)).collect()
    }

    /// Encodes with the tokens that the tokenizer adds, unless the text begins with the prefix.
    fn encode_whole(&self, text: &str, question: &Question) -> Result<Vec<u32>> {
        let prefix = self.special("bos_token").or(self.special("eos_token"));
        let begins = prefix.is_some_and(|prefix| text.starts_with(prefix));
        self.encode(text, !begins, question)
    }

    fn pair(&self, context: &str, continuation: &str, question: &Question) -> Result<Example> {
        let example = if context.is_empty() {
            let (_, prefix) = self.prefix(question)?;
            let mut ids = self.encode(continuation, false, question)?;
            if ids.first() != Some(&prefix) {
                ids.insert(0, prefix);
            }
            Example { ids, prompt: 1 }
        } else {
            let end = context.trim_end_matches(is_space);
            let mut ids = self.encode_whole(end, question)?;
            let whole = self.encode_whole(&format!("{context}{continuation}"), question)?;
            let prompt = ids.len();
            ids.extend(whole.get(prompt..).unwrap_or_default());
            Example { ids, prompt }
        };
        let count = example.ids.len() - example.prompt;
        let refuse = |reason: String, hint| Err(self.bad(question, &reason, hint));
        match count {
            _ if example.prompt == 0 => {
                refuse("its context has no tokens but spaces".into(), "add a text")
            }
            0 => refuse(
                format!("the continuation `{continuation}` adds no token to its context"),
                "reword it, or change target_delimiter",
            ),
            count if count > self.max_length => refuse(
                format!(
                    "a continuation has {count} tokens; the model has {} positions",
                    self.max_length
                ),
                "shorten it",
            ),
            _ => Ok(example),
        }
    }

    /// The windows of a whole text: every token is predicted once, from at most `max_length` tokens
    /// before it.
    fn windows(&self, question: &Question) -> Result<Vec<Example>> {
        let (_, prefix) = self.prefix(question)?;
        let ids = self.encode_whole(&question.continuations[0], question)?;
        let length = self.max_length;
        let first = ids.len().min(length);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut windows = vec![Example { ids: [&[prefix], &ids[..first]].concat(), prompt: 1 }];
        let mut done = first;
        while done < ids.len() {
            let count = (ids.len() - done).min(length);
            let end = done + count;
            // The model receives `length` tokens, which end before the last predicted one.
            let begin = end - length - 1;
            windows.push(Example { ids: ids[begin..end].to_vec(), prompt: length + 1 - count });
            done = end;
        }
        Ok(windows)
    }
}
