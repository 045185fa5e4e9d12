//! Generation: answers of the merge and of its sources, and the likelihood of the merge's answer
//! under each source, token by token.
//!
//! All models receive the same tokens: the prompt through the merge's tokenizer and template. A
//! source never generates tokens missing from its vocabulary, and is not compared at them.

mod probabilities;

use std::fmt::Write;

use candle_core::DType;

use super::Dam;
use super::merged::Merged;
use super::progress::{GENERATE, Task};
use super::score::Scorer;
use crate::checkpoint::{Architecture, BASE, DEFAULT_RESERVE, Source, capacity, make_room};
use crate::data::{StreamDecoder, prompt_ids};
use crate::device::{is_composed, members};
use crate::error::{Error, Result, gigabytes};
use crate::eval::{Generation, Likelihood, favoured, log_probs};
use crate::interrupt;
use crate::model::{Held, SourceWeights, Weights};
use crate::show::{Answer, AnswerToken, Answers, AskReport, MERGED, SourceAnswer, printable};
use crate::train::available_bytes;

pub(crate) use probabilities::KnownAnswers;

/// A tokenised prompt.
pub(super) struct PromptTokens<'a> {
    /// The source whose tokenizer encodes and decodes.
    pub reader: &'a Source,
    pub ids: Vec<u32>,
    /// The maximum number of tokens of an answer.
    pub limit: usize,
    /// The model's positions, if they limit the answer.
    positions: Option<usize>,
}

impl PromptTokens<'_> {
    /// Returns the model's positions if one of the answers used all of them.
    fn full(&self, decoded: &[StreamDecoder<'_>]) -> Option<usize> {
        self.positions.filter(|_| decoded.iter().any(|decoded| decoded.ids().len() == self.limit))
    }
}

/// A model that answers: the merge, or a source.
pub(super) struct Speaker<'a> {
    name: &'a str,
    architecture: &'a Architecture,
    /// `None` for the merge.
    source: Option<&'a Source>,
    /// Tokens missing from its vocabulary.
    missing_rows: &'a [u32],
}

impl<'a> Speaker<'a> {
    /// Returns a source.
    ///
    /// # Errors
    /// A family that cannot be run.
    pub(super) fn source(source: &'a Source) -> Result<Self> {
        let missing_rows = source.numbering().map_or(&[][..], |numbering| &numbering.missing_rows);
        let (name, architecture) = (source.name(), source.architecture()?);
        Ok(Self { name, architecture, source: Some(source), missing_rows })
    }
}

impl<'a> Scorer<'a> {
    pub(super) fn prompt(&self, text: &str, limit: usize) -> Result<PromptTokens<'a>> {
        let reader = self.models.tokenizer_source().ok_or_else(|| Error::Sources {
            what: "no source has a tokenizer, which generating text needs".into(),
            hint: "add tokenizer.json next to the weights",
        })?;
        let ids = prompt_ids(reader, text)?;
        let most = self.architecture.max_positions;
        if ids.is_empty() {
            return Err(Error::Sources {
                what: "the prompt is empty".into(),
                hint: "enter some text",
            });
        }
        if ids.len() >= most {
            let what = format!(
                "the prompt has {} tokens; the model has {most} positions for prompt and answer",
                ids.len()
            );
            return Err(Error::Sources { what, hint: "shorten the prompt" });
        }
        let room = most - ids.len();
        Ok(PromptTokens {
            reader,
            ids,
            limit: limit.min(room),
            positions: (room < limit).then_some(most),
        })
    }

    fn merge(&self, name: &'a str) -> Speaker<'a> {
        Speaker { name, architecture: self.architecture, source: None, missing_rows: &[] }
    }

    /// Returns the merge, under the name `name`, then all sources, the base last.
    fn speakers(&self, name: &'a str) -> Result<Vec<Speaker<'a>>> {
        let (base, others): (Vec<&Source>, Vec<&Source>) =
            self.models.sources.iter().partition(|s| s.name() == BASE);
        [Ok(self.merge(name))]
            .into_iter()
            .chain(others.into_iter().chain(base).map(Speaker::source))
            .collect()
    }

    /// Returns how many of `speakers` generate at once: all, if their weights fit into half of the
    /// free memory on the CPU, else one, because every token needs all weights of its model.
    fn at_once(&self, speakers: &[Speaker<'_>]) -> usize {
        let bytes: u64 = speakers.iter().map(|speaker| self.held_bytes(speaker)).sum();
        if self.device.is_cpu() && bytes <= available_bytes() / 2 { speakers.len() } else { 1 }
    }

    /// Returns the bytes of all weights of `speaker` as they are held.
    fn held_bytes(&self, speaker: &Speaker<'_>) -> u64 {
        let tensors = speaker.architecture.tensors();
        let elements: usize = tensors.iter().map(|s| s.shape.iter().product::<usize>()).sum();
        let dtype = if self.holds_bf16(speaker.source) { DType::BF16 } else { self.dtype };
        (elements * dtype.size_in_bytes()) as u64
    }

    /// Makes room on a GPU for all weights of `speaker`.
    fn make_room(&self, speaker: &Speaker<'_>) -> Result<()> {
        if !is_composed(self.device) {
            return Ok(());
        }
        let shares = members(self.device).len() as u64;
        let mut needed = self.held_bytes(speaker) / shares;
        // A source in the dtype of the computation is held as its copies.
        if let Some(source) = speaker.source.filter(|source| source.dtype() == self.dtype) {
            needed = needed.saturating_sub(source.resident_bytes(self.device));
        }
        let all: Vec<Source> = self.models.sources.iter().chain(self.sources).cloned().collect();
        let available = capacity(&all, self.device)?;
        if needed > available {
            return Err(Error::Refused {
                message: format!(
                    "the weights of `{}` need {} of the GPU's memory; {} is free",
                    speaker.name,
                    gigabytes(needed),
                    gigabytes(available)
                ),
                hint: "set device=cpu to generate in main memory".into(),
            });
        }
        make_room(&all, self.device, (needed + DEFAULT_RESERVE).min(available))
    }

    /// Generates the answers of `speakers`, `at_once` models at a time.
    pub(super) fn answer<W: Weights + ?Sized>(
        &self,
        merged: &W,
        speakers: &[Speaker<'a>],
        prompt: &PromptTokens<'a>,
        at_once: usize,
    ) -> Result<Vec<StreamDecoder<'a>>> {
        let mut decoded = speakers
            .iter()
            .map(|_| StreamDecoder::new(prompt.reader))
            .collect::<Result<Vec<_>>>()?;
        let steps = prompt.limit.saturating_mul(speakers.len().div_ceil(at_once));
        let mut task = Task::begin(GENERATE, Some(steps), None);
        for start in (0..speakers.len()).step_by(at_once) {
            if interrupt::requested() {
                break;
            }
            let group = &speakers[start..(start + at_once).min(speakers.len())];
            let weights = match group
                .iter()
                .map(|speaker| self.load_weights(merged, speaker))
                .collect::<Result<Vec<_>>>()
            {
                Err(Error::Interrupted) => break,
                weights => weights?,
            };
            let generation = |(speaker, weights): (&Speaker<'a>, _)| {
                Generation::new(speaker.architecture, weights, &prompt.ids, self.device)
                    .without(speaker.missing_rows)
            };
            let mut generations =
                group.iter().zip(&weights).map(generation).collect::<Result<Vec<_>>>()?;
            for _ in 0..prompt.limit {
                let mut goes_on = false;
                for (generation, decoded) in generations.iter_mut().zip(&mut decoded[start..]) {
                    if let Some(token) = generation.next() {
                        decoded.push(token?)?;
                        goes_on = true;
                    }
                }
                if !goes_on {
                    break;
                }
                task.step(|| partial_text(speakers, &decoded), None, None);
            }
        }
        Ok(decoded)
    }

    /// Loads all weights of `speaker`.
    fn load_weights<W: Weights + ?Sized>(&self, merged: &W, speaker: &Speaker<'a>) -> Result<Held> {
        self.make_room(speaker)?;
        let (architecture, as_bf16) = (speaker.architecture, self.holds_bf16(speaker.source));
        match speaker.source {
            Some(source) => {
                let own = SourceWeights { source, device: self.device, dtype: self.dtype };
                Held::new(architecture, &own, self.dtype, as_bf16)
            }
            None => Held::new(architecture, merged, self.dtype, as_bf16),
        }
    }

    /// Whether the weights of `source`, or of the merge, are held as bf16 under a computation in
    /// f32: those of a source in bf16, which lose nothing, and those of a merge of such sources, as
    /// a checkpoint of it has them.
    pub(super) fn holds_bf16(&self, source: Option<&Source>) -> bool {
        let is_bf16 = |source: &Source| source.dtype() == DType::BF16;
        self.models.settings.dtype == "auto"
            && self.dtype == DType::F32
            && !is_composed(self.device)
            && source.map_or_else(|| self.sources.iter().all(is_bf16), is_bf16)
    }

    /// Computes the log-probability of every token of `answer` under `speaker`, with one layer in
    /// memory at a time.
    fn score_answer<W: Weights + ?Sized>(
        &self,
        merged: &W,
        speaker: &Speaker<'a>,
        prompt: &PromptTokens<'a>,
        answer: &[u32],
    ) -> Result<Vec<Option<f64>>> {
        let ids = [&prompt.ids, answer].concat();
        let first = prompt.ids.len();
        match speaker.source {
            Some(source) => {
                let weights = SourceWeights { source, device: self.device, dtype: self.dtype };
                log_probs(
                    speaker.architecture,
                    &weights,
                    &ids,
                    first,
                    speaker.missing_rows,
                    self.device,
                )
            }
            None => log_probs(
                speaker.architecture,
                merged,
                &ids,
                first,
                speaker.missing_rows,
                self.device,
            ),
        }
    }

    fn generate<W: Weights + ?Sized>(
        &self,
        merged: &W,
        text: &str,
        limit: usize,
    ) -> Result<Answer> {
        let prompt = self.prompt(text, limit)?;
        let decoded = self.answer(merged, &[self.merge(MERGED)], &prompt, 1)?;
        let full = prompt.full(&decoded);
        let answer = decoded.into_iter().map(StreamDecoder::finish).next().transpose()?;
        Ok(Answer {
            prompt: text.into(),
            text: answer.map(|(text, _)| text).unwrap_or_default(),
            full,
        })
    }

    fn generate_all<W: Weights + ?Sized>(
        &self,
        name: &'a str,
        merged: &W,
        text: &str,
        limit: usize,
    ) -> Result<Answers> {
        let prompt = self.prompt(text, limit)?;
        let speakers = self.speakers(name)?;
        let decoded = self.answer(merged, &speakers, &prompt, self.at_once(&speakers))?;
        let full = prompt.full(&decoded);
        let row = |(speaker, decoded): (&Speaker<'_>, StreamDecoder<'_>)| {
            Ok((speaker.name.to_owned(), decoded.finish()?.0))
        };
        let rows = speakers.iter().zip(decoded).map(row).collect::<Result<_>>()?;
        Ok(Answers { prompt: text.into(), rows, stopped: interrupt::requested(), full })
    }

    fn ask<W: Weights + ?Sized>(
        &self,
        name: &'a str,
        merged: &W,
        text: &str,
        limit: usize,
    ) -> Result<AskReport> {
        let prompt = self.prompt(text, limit)?;
        let speakers = self.speakers(name)?;
        let decoded = self.answer(merged, &speakers, &prompt, self.at_once(&speakers))?;
        let full = prompt.full(&decoded);
        let answer = decoded.first().map(|merge| merge.ids().to_vec()).unwrap_or_default();
        // After a stop, the answers are kept; likelihoods are complete or absent.
        let scored = match speakers
            .iter()
            .map(|speaker| self.score_answer(merged, speaker, &prompt, &answer))
            .collect::<Result<Vec<_>>>()
        {
            Err(Error::Interrupted) => vec![Vec::new(); speakers.len()],
            scored => scored?,
        };
        let stopped = interrupt::requested();
        let mut answers =
            decoded.into_iter().map(StreamDecoder::finish).collect::<Result<Vec<_>>>()?.into_iter();
        let (answer, parts) = answers.next().unwrap_or_default();
        let sources = speakers.iter().zip(&scored).skip(1).zip(answers).map(
            |((speaker, scored), (answer, _))| SourceAnswer {
                name: speaker.name.into(),
                answer,
                likelihood: Likelihood::of(scored.iter().copied()),
                is_merged: self.sources.iter().any(|source| source.name() == speaker.name),
                lacks_of_prompt: prompt
                    .ids
                    .iter()
                    .filter(|id| speaker.missing_rows.contains(id))
                    .count(),
            },
        );
        let sources: Vec<SourceAnswer> = sources.collect();
        let token = |(i, text): (usize, String)| {
            let log_probs: Vec<Option<f64>> =
                scored.iter().skip(1).filter_map(|scored| scored.get(i).copied()).collect();
            let merged: Vec<Option<f64>> = log_probs
                .iter()
                .zip(&sources)
                .map(|(log_prob, source)| log_prob.filter(|_| source.is_merged))
                .collect();
            AnswerToken { text, favours: favoured(&merged), log_probs }
        };
        let tokens = parts.into_iter().enumerate().map(token).collect();
        let likelihood = Likelihood::of(scored.into_iter().next().unwrap_or_default());
        Ok(AskReport {
            prompt: text.into(),
            model: name.into(),
            text: answer,
            likelihood,
            sources,
            tokens,
            stopped,
            full,
        })
    }
}

/// Returns the text generated so far by all models.
fn partial_text(speakers: &[Speaker<'_>], decoded: &[StreamDecoder<'_>]) -> String {
    if let [one] = decoded {
        return printable(one.text_so_far());
    }
    let mut text = String::new();
    for (speaker, decoded) in speakers.iter().zip(decoded) {
        let line = decoded.text_so_far().replace('\n', " ");
        let end = if text.is_empty() { "" } else { "\n" };
        text.write_fmt(format_args!("{end}{}: {}", printable(speaker.name), printable(&line)))
            .unwrap_or(());
    }
    text
}

impl Dam {
    /// Generates the merge's answer to `prompt` by greedy decoding, through the chat template if
    /// there is one, with at most `limit` tokens. If interrupted, returns the text so far.
    ///
    /// # Errors
    /// No tokenizer, a template that does not render, an empty prompt, or one longer than the
    /// model's positions.
    pub fn generate(&self, prompt: &str, limit: usize) -> Result<Answer> {
        self.with_weights(|session| {
            session.scorer().generate(&session.merge.as_weights(session.dtype), prompt, limit)
        })
    }

    /// Like [`Dam::generate`], for the merge and every source, all from the same tokens.
    ///
    /// ```
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let answers = dam.generate_all("What is 12 plus 7?", 32)?;
    /// assert_eq!(answers.source("math"), Some("12 + 7 = 19"));
    /// assert_eq!(answers.text(), dam.generate("What is 12 plus 7?", 32)?.text);
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for `generate`.
    pub fn generate_all(&self, prompt: &str, limit: usize) -> Result<Answers> {
        self.with_weights(|session| {
            session.scorer().generate_all(
                MERGED,
                &session.merge.as_weights(session.dtype),
                prompt,
                limit,
            )
        })
    }

    /// Generates the answers of the merge and every source to `prompt`, with at most `limit` tokens
    /// each, and computes the likelihood of the merge's answer under every source: the
    /// log-probability of each token given the prompt and the tokens before it, from one forward
    /// pass per source. The end-of-answer token is not counted.
    ///
    /// ```
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let asked = dam.ask("What is 12 plus 7?", 32)?;
    /// let [japanese, math] = &asked.sources[..] else { panic!("two sources") };
    /// assert!(math.likelihood.nats_per_token() > japanese.likelihood.nats_per_token());
    /// let tokens: String = asked.tokens.iter().map(|token| token.text.as_str()).collect();
    /// assert_eq!((tokens.as_str(), asked.text.as_str()), ("12 + 7 = 19", "12 + 7 = 19"));
    /// println!("{asked}");
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for `generate`.
    pub fn ask(&self, prompt: &str, limit: usize) -> Result<AskReport> {
        self.with_weights(|session| {
            session.scorer().ask(MERGED, &session.merge.as_weights(session.dtype), prompt, limit)
        })
    }
}

impl Merged {
    /// Generates the answer to `prompt` by greedy decoding, through the chat template if there is
    /// one, with at most `limit` tokens. If interrupted, returns the text so far. All weights are
    /// merged once and kept in memory meanwhile.
    ///
    /// # Errors
    /// As for [`Dam::generate`], or a family that cannot be run.
    pub fn generate(&self, prompt: &str, limit: usize) -> Result<Answer> {
        self.with_scorer(|scorer, plan| {
            scorer.generate(&plan.weights(scorer.device, scorer.dtype), prompt, limit)
        })
    }

    /// Like [`Merged::generate`], for the merge and every source, as in [`Dam::generate_all`].
    ///
    /// # Errors
    /// As for `generate`.
    pub fn generate_all(&self, prompt: &str, limit: usize) -> Result<Answers> {
        self.with_scorer(|scorer, plan| {
            scorer.generate_all(
                plan.method,
                &plan.weights(scorer.device, scorer.dtype),
                prompt,
                limit,
            )
        })
    }

    /// Generates the answers of the merge and every source, with likelihoods as in [`Dam::ask`].
    ///
    /// # Errors
    /// As for `generate`.
    pub fn ask(&self, prompt: &str, limit: usize) -> Result<AskReport> {
        self.with_scorer(|scorer, plan| {
            scorer.ask(plan.method, &plan.weights(scorer.device, scorer.dtype), prompt, limit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Columns, load};

    #[test]
    fn answers_do_not_depend_on_how_many_models_generate_at_once() {
        let dam = load(["builtin:japanese", "builtin:math", "builtin:sql"])
            .unwrap()
            .wrap(Columns::default())
            .unwrap();
        let session = dam.session();
        let scorer = session.scorer();
        let weights = session.merge.as_weights(session.dtype);
        let prompt = scorer.prompt("What is 12 plus 7?", 6).unwrap();
        let speakers = scorer.speakers(MERGED).unwrap();
        let answers = |at_once: usize| {
            let decoded = scorer.answer(&weights, &speakers, &prompt, at_once).unwrap();
            decoded.iter().map(|one| one.ids().to_vec()).collect::<Vec<_>>()
        };
        let all = answers(4);
        assert!(
            all.len() == 4 && all.iter().all(|ids| !ids.is_empty()) && all[1] != all[2],
            "{all:?}"
        );
        assert_eq!([answers(1), answers(3)], [all.clone(), all]);
    }
}
