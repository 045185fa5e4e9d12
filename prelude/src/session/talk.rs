//! Generation: answers of the merge and of its sources, and the likelihood of the merge's answer under each source,
//! token by token.
//!
//! All models receive the same tokens: the prompt through the merge's tokenizer and template. A source never
//! generates tokens missing from its vocabulary, and is not compared at them.

use std::collections::BTreeMap;
use std::fmt::Write;

use candle_core::Tensor;

use super::progress::{GENERATE, Task};
use super::score::Judge;
use super::{BASE, Dam, Merged};
use crate::checkpoint::{Architecture, Source};
use crate::data::{Spoken, prompt_ids};
use crate::error::{Error, Result};
use crate::eval::{Generation, Likelihood, favoured, log_probs};
use crate::interrupt;
use crate::model::{SourceWeights, Weights, collect};
use crate::show::{Answer, Answers, Asked, AskedSource, AskedToken, MERGED, printable};
use crate::train::available_bytes;

/// A tokenised prompt.
struct Prompt<'a> {
    /// The source whose tokenizer encodes and decodes.
    reader: &'a Source,
    ids: Vec<u32>,
    /// The maximum number of tokens of an answer.
    limit: usize,
    /// The model's positions, if they limit the answer.
    positions: Option<usize>,
}

impl Prompt<'_> {
    /// Returns the model's positions if one of the answers used all of them.
    fn full(&self, spoken: &[Spoken<'_>]) -> Option<usize> {
        self.positions.filter(|_| spoken.iter().any(|spoken| spoken.ids().len() == self.limit))
    }
}

/// A model that answers: the merge, or a source.
struct Voice<'a> {
    name: &'a str,
    architecture: &'a Architecture,
    /// `None` for the merge.
    source: Option<&'a Source>,
    /// Tokens missing from its vocabulary.
    lacking: &'a [u32],
}

impl<'a> Judge<'a> {
    fn prompt(&self, text: &str, limit: usize) -> Result<Prompt<'a>> {
        let reader = self.models.speaker().ok_or_else(|| Error::Sources {
            what: "no source has a tokenizer, which generating text needs".into(),
            hint: "add tokenizer.json next to the weights",
        })?;
        let ids = prompt_ids(reader, text)?;
        let most = self.architecture.max_positions;
        if ids.is_empty() {
            return Err(Error::Sources { what: "the prompt is empty".into(), hint: "enter some text" });
        }
        if ids.len() >= most {
            let what = format!("the prompt has {} tokens; the model has {most} positions for prompt and answer", ids.len());
            return Err(Error::Sources { what, hint: "shorten the prompt" });
        }
        let room = most - ids.len();
        Ok(Prompt { reader, ids, limit: limit.min(room), positions: (room < limit).then_some(most) })
    }

    fn merge(&self, name: &'a str) -> Voice<'a> {
        Voice { name, architecture: self.architecture, source: None, lacking: &[] }
    }

    /// Returns the merge, under the name `name`, then all sources, the base last.
    fn voices(&self, name: &'a str) -> Result<Vec<Voice<'a>>> {
        let (base, others): (Vec<&Source>, Vec<&Source>) = self.models.sources.iter().partition(|s| s.name() == BASE);
        let voice = |source: &'a Source| {
            let lacking = source.numbering().map_or(&[][..], |numbering| &numbering.lacking);
            Ok(Voice { name: source.name(), architecture: source.architecture()?, source: Some(source), lacking })
        };
        [Ok(self.merge(name))].into_iter().chain(others.into_iter().chain(base).map(voice)).collect()
    }

    /// Returns how many of `voices` generate at once: all, if their weights fit into half of the free memory on the
    /// CPU, else one, because every token needs all weights of its model.
    fn at_once(&self, voices: &[Voice<'_>]) -> usize {
        let elements = |voice: &Voice<'_>| -> u64 {
            voice.architecture.tensors().iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
        };
        let bytes = voices.iter().map(elements).sum::<u64>() * self.dtype.size_in_bytes() as u64;
        if self.device.is_cpu() && bytes <= available_bytes() / 2 { voices.len() } else { 1 }
    }

    /// Generates the answers of `voices`, `at_once` models at a time.
    fn spoken<W: Weights + ?Sized>(
        &self,
        merged: &W,
        voices: &[Voice<'a>],
        prompt: &Prompt<'a>,
        at_once: usize,
    ) -> Result<Vec<Spoken<'a>>> {
        let mut spoken = voices.iter().map(|_| Spoken::new(prompt.reader)).collect::<Result<Vec<_>>>()?;
        let steps = prompt.limit.saturating_mul(voices.len().div_ceil(at_once));
        let mut task = Task::begin(GENERATE, Some(steps), None);
        for start in (0..voices.len()).step_by(at_once) {
            if interrupt::requested() {
                break;
            }
            let group = &voices[start..(start + at_once).min(voices.len())];
            let weights = match group.iter().map(|voice| self.held(merged, voice)).collect::<Result<Vec<_>>>() {
                Err(Error::Interrupted) => break,
                weights => weights?,
            };
            let generation = |(voice, weights): (&Voice<'a>, _)| {
                Generation::new(voice.architecture, weights, &prompt.ids, self.device).without(voice.lacking)
            };
            let mut generations = group.iter().zip(&weights).map(generation).collect::<Result<Vec<_>>>()?;
            for _ in 0..prompt.limit {
                let mut goes_on = false;
                for (generation, spoken) in generations.iter_mut().zip(&mut spoken[start..]) {
                    if let Some(token) = generation.next() {
                        spoken.push(token?)?;
                        goes_on = true;
                    }
                }
                if !goes_on {
                    break;
                }
                task.step(|| so_far(voices, &spoken), None, None);
            }
        }
        Ok(spoken)
    }

    /// Loads all weights of `voice`.
    fn held<W: Weights + ?Sized>(&self, merged: &W, voice: &Voice<'a>) -> Result<BTreeMap<String, Tensor>> {
        match voice.source {
            Some(source) => SourceWeights { source, device: self.device, dtype: self.dtype }.collect(),
            None => collect(voice.architecture, merged),
        }
    }

    /// Computes the log-probability of every token of `answer` under `voice`, with one layer in memory at a time.
    fn heard<W: Weights + ?Sized>(
        &self,
        merged: &W,
        voice: &Voice<'a>,
        prompt: &Prompt<'a>,
        answer: &[u32],
    ) -> Result<Vec<Option<f64>>> {
        let (ids, first) = ([&prompt.ids, answer].concat(), prompt.ids.len());
        match voice.source {
            Some(source) => {
                let weights = SourceWeights { source, device: self.device, dtype: self.dtype };
                log_probs(voice.architecture, &weights, &ids, first, voice.lacking, self.device)
            }
            None => log_probs(voice.architecture, merged, &ids, first, voice.lacking, self.device),
        }
    }

    fn generate<W: Weights + ?Sized>(&self, merged: &W, text: &str, limit: usize) -> Result<Answer> {
        let prompt = self.prompt(text, limit)?;
        let spoken = self.spoken(merged, &[self.merge(MERGED)], &prompt, 1)?;
        let full = prompt.full(&spoken);
        let answer = spoken.into_iter().map(Spoken::finish).next().transpose()?;
        Ok(Answer { prompt: text.into(), text: answer.map(|(text, _)| text).unwrap_or_default(), full })
    }

    fn generate_all<W: Weights + ?Sized>(&self, name: &'a str, merged: &W, text: &str, limit: usize) -> Result<Answers> {
        let (prompt, voices) = (self.prompt(text, limit)?, self.voices(name)?);
        let spoken = self.spoken(merged, &voices, &prompt, self.at_once(&voices))?;
        let full = prompt.full(&spoken);
        let row = |(voice, spoken): (&Voice<'_>, Spoken<'_>)| Ok((voice.name.to_owned(), spoken.finish()?.0));
        let rows = voices.iter().zip(spoken).map(row).collect::<Result<_>>()?;
        Ok(Answers { prompt: text.into(), rows, stopped: interrupt::requested(), full })
    }

    fn ask<W: Weights + ?Sized>(&self, name: &'a str, merged: &W, text: &str, limit: usize) -> Result<Asked> {
        let (prompt, voices) = (self.prompt(text, limit)?, self.voices(name)?);
        let spoken = self.spoken(merged, &voices, &prompt, self.at_once(&voices))?;
        let full = prompt.full(&spoken);
        let answer = spoken.first().map(|merge| merge.ids().to_vec()).unwrap_or_default();
        // After a stop, the answers are kept; likelihoods are complete or absent.
        let heard = match voices.iter().map(|voice| self.heard(merged, voice, &prompt, &answer)).collect::<Result<Vec<_>>>() {
            Err(Error::Interrupted) => vec![Vec::new(); voices.len()],
            heard => heard?,
        };
        let stopped = interrupt::requested();
        let mut said = spoken.into_iter().map(Spoken::finish).collect::<Result<Vec<_>>>()?.into_iter();
        let (answer, parts) = said.next().unwrap_or_default();
        let sources = voices.iter().zip(&heard).skip(1).zip(said).map(|((voice, heard), (answer, _))| AskedSource {
            name: voice.name.into(),
            answer,
            likelihood: Likelihood::of(heard.iter().copied()),
            is_merged: self.sources.iter().any(|source| source.name() == voice.name),
            lacks_of_prompt: prompt.ids.iter().filter(|id| voice.lacking.contains(id)).count(),
        });
        let sources: Vec<AskedSource> = sources.collect();
        let token = |(i, text): (usize, String)| {
            let log_probs: Vec<Option<f64>> = heard.iter().skip(1).filter_map(|heard| heard.get(i).copied()).collect();
            let merged: Vec<Option<f64>> =
                log_probs.iter().zip(&sources).map(|(log_prob, source)| log_prob.filter(|_| source.is_merged)).collect();
            AskedToken { text, favours: favoured(&merged), log_probs }
        };
        let tokens = parts.into_iter().enumerate().map(token).collect();
        let likelihood = Likelihood::of(heard.into_iter().next().unwrap_or_default());
        Ok(Asked { prompt: text.into(), model: name.into(), text: answer, likelihood, sources, tokens, stopped, full })
    }
}

/// Returns the text generated so far by all models.
fn so_far(voices: &[Voice<'_>], spoken: &[Spoken<'_>]) -> String {
    if let [one] = spoken {
        return printable(one.so_far());
    }
    let mut text = String::new();
    for (voice, spoken) in voices.iter().zip(spoken) {
        let line = spoken.so_far().replace('\n', " ");
        let end = if text.is_empty() { "" } else { "\n" };
        text.write_fmt(format_args!("{end}{}: {}", printable(voice.name), printable(&line))).unwrap_or(());
    }
    text
}

impl Dam {
    /// Generates the merge's answer to `prompt` by greedy decoding, through the chat template if there is one, with
    /// at most `limit` tokens. If interrupted, returns the text so far.
    ///
    /// # Errors
    /// No tokenizer, a template that does not render, an empty prompt, or one longer than the model's positions.
    pub fn generate(&self, prompt: &str, limit: usize) -> Result<Answer> {
        self.run(|session| session.judge().generate(&session.merge.as_weights(session.dtype), prompt, limit))
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
        self.run(|session| session.judge().generate_all(MERGED, &session.merge.as_weights(session.dtype), prompt, limit))
    }

    /// Generates the answers of the merge and every source to `prompt`, with at most `limit` tokens each, and
    /// computes the likelihood of the merge's answer under every source: the log-probability of each token given the
    /// prompt and the tokens before it, from one forward pass per source. The end-of-answer token is not counted.
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
    pub fn ask(&self, prompt: &str, limit: usize) -> Result<Asked> {
        self.run(|session| session.judge().ask(MERGED, &session.merge.as_weights(session.dtype), prompt, limit))
    }
}

impl Merged {
    /// Generates the answer to `prompt` by greedy decoding, through the chat template if there is one, with at most
    /// `limit` tokens. If interrupted, returns the text so far. All weights are merged once and kept in memory
    /// meanwhile.
    ///
    /// # Errors
    /// As for [`Dam::generate`], or a family that cannot be run.
    pub fn generate(&self, prompt: &str, limit: usize) -> Result<Answer> {
        self.judged(|judge, plan| judge.generate(&plan.weights(judge.device, judge.dtype), prompt, limit))
    }

    /// Like [`Merged::generate`], for the merge and every source, as in [`Dam::generate_all`].
    ///
    /// # Errors
    /// As for `generate`.
    pub fn generate_all(&self, prompt: &str, limit: usize) -> Result<Answers> {
        self.judged(|judge, plan| judge.generate_all(plan.method, &plan.weights(judge.device, judge.dtype), prompt, limit))
    }

    /// Generates the answers of the merge and every source, with likelihoods as in [`Dam::ask`].
    ///
    /// # Errors
    /// As for `generate`.
    pub fn ask(&self, prompt: &str, limit: usize) -> Result<Asked> {
        self.judged(|judge, plan| judge.ask(plan.method, &plan.weights(judge.device, judge.dtype), prompt, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Columns, load};

    #[test]
    fn it_does_not_matter_how_many_speak_at_once() {
        let dam = load(["builtin:japanese", "builtin:math", "builtin:sql"]).unwrap().wrap(Columns::default()).unwrap();
        let session = dam.session();
        let (judge, weights) = (session.judge(), session.merge.as_weights(session.dtype));
        let (prompt, voices) = (judge.prompt("What is 12 plus 7?", 6).unwrap(), judge.voices(MERGED).unwrap());
        let said = |at_once: usize| {
            let spoken = judge.spoken(&weights, &voices, &prompt, at_once).unwrap();
            spoken.iter().map(|one| one.ids().to_vec()).collect::<Vec<_>>()
        };
        let all = said(4);
        assert!(all.len() == 4 && all.iter().all(|ids| !ids.is_empty()) && all[1] != all[2], "{all:?}");
        assert_eq!([said(1), said(3)], [all.clone(), all]);
    }
}
