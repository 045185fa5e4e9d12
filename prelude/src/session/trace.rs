//! trace: why the merge gives an answer the probability that it gives.
//!
//! The answer is a text, that of a row of data, or what a source answers. One token of it is
//! traced: the first that the merge does not expect most.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::Dam;
use super::generate::{PromptTokens, Speaker};
use super::merged::Merged;
use super::progress::Task;
use super::score::Scorer;
use crate::checkpoint::{Source, capacity, make_room};
use crate::data::{StreamDecoder, answer_ids};
use crate::device::is_composed;
use crate::error::{Error, Result, gigabytes, refuse};
use crate::eval::{Likelihood, NextToken, next_tokens};
use crate::interrupt;
use crate::model::{SourceWeights, Weights};
use crate::show::{MERGED, TraceReport};
use crate::trace::{PASSES, Question, Subject, Traced, bytes, trace};
use crate::train::available_bytes;

/// What to trace. A prompt alone, as in `dam.trace("Subtract 55 from 94.")`, leaves the rest at its
/// default.
///
/// ```
/// use dam_prelude::{Columns, Trace, load};
///
/// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
/// let row = Some(("math".into(), 3));
/// let report = dam.trace(Trace { row, ..Trace::default() })?;
/// assert_eq!(report.sources[report.traced.like], "math");
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The prompt, unless there is a row.
    pub prompt: String,
    /// An example in place of prompt and answer: the source whose data has it, and its number, from
    /// 1.
    pub row: Option<(String, usize)>,
    /// The answer. `None`: what the source `like` answers.
    pub answer: Option<String>,
    /// The source to compare with and to patch from. `None`: the source of the row; or else the one
    /// whose own answer is the most certain, or which gives `answer` the highest probability, both
    /// per token.
    pub like: Option<String>,
    /// The maximum number of tokens of a source's own answer.
    pub tokens: usize,
}

impl Default for Trace {
    fn default() -> Self {
        Self { prompt: String::new(), row: None, answer: None, like: None, tokens: 64 }
    }
}

impl From<&str> for Trace {
    fn from(prompt: &str) -> Self {
        Self { prompt: prompt.into(), ..Self::default() }
    }
}

/// A prompt and what follows it.
struct Dialogue {
    /// The tokens of the prompt.
    prompt: Vec<u32>,
    /// The tokens of the answer.
    answer: Vec<u32>,
    /// The index of the source to compare with.
    like: usize,
    /// Where the answer is from.
    origin: String,
}

impl<'a> Scorer<'a> {
    fn trace<W: Weights + ?Sized>(
        &self,
        name: &'a str,
        merged: &W,
        options: &Trace,
    ) -> Result<TraceReport> {
        self.check_layers()?;
        let dialogue = self.dialogue(merged, options)?;
        let Dialogue { prompt, answer, like, origin } = &dialogue;
        let all = [prompt.as_slice(), answer].concat();
        let first = prompt.len();
        let expected = next_tokens(self.architecture, merged, &all, first, &[], self.device)?;
        let at = first + traced(&expected, answer);
        let (ids, token) = (&all[..at], all[at]);
        let lacking = |i: usize| {
            self.sources[i].numbering().map_or(&[][..], |numbering| &numbering.missing_rows)
        };
        let texts = Texts { reader: self.models.tokenizer_source() };
        if lacking(*like).contains(&token) {
            let (name, text) = (self.sources[*like].name(), texts.one(token));
            return refuse(
                format!("`{name}` lacks the token `{text}` of the answer"),
                "compare with a source that has it: like=SOURCE",
            );
        }
        self.check_room(ids.len())?;
        let subject = Subject {
            architecture: self.architecture,
            merge: merged,
            sources: self.sources,
            device: self.device,
            dtype: self.dtype,
        };
        let question = Question { ids, answer: token, like: *like };
        let mut task = Task::begin("trace", Some(PASSES * self.architecture.layers), None);
        let traced = trace(&subject, &question, &mut |done| task.step(|| done, None, None))?;
        drop(task);
        let meant: BTreeMap<u32, String> =
            expectations(&traced).map(|token| (token, texts.one(token))).collect();
        Ok(TraceReport {
            model: name.into(),
            sources: self.sources.iter().map(|source| source.name().to_owned()).collect(),
            before: texts.each(ids)?,
            answer: texts.whole(answer)?,
            token: texts.one(token),
            token_id: token,
            origin: origin.clone(),
            texts: meant,
            mends: false,
            traced,
        })
    }

    /// Checks that every source has the layers of the merge.
    fn check_layers(&self) -> Result<()> {
        for source in self.sources {
            if let Some(difference) = self.architecture.difference(source.architecture()?) {
                let name = source.name();
                return refuse(
                    format!("the merge and `{name}` are not alike: {difference}"),
                    "trace compares layer by layer: merge without stacking or leaving out layers",
                );
            }
        }
        Ok(())
    }

    /// Returns the prompt, the answer and the source to compare with.
    fn dialogue<W: Weights + ?Sized>(&self, merged: &W, options: &Trace) -> Result<Dialogue> {
        let like = options.like.as_deref().map(|name| self.index_of(name)).transpose()?;
        if let Some((name, number)) = &options.row {
            return self.row(name, *number, like, options);
        }
        let prompt = self.prompt(&options.prompt, options.tokens)?;
        let candidates = like.map_or_else(|| (0..self.sources.len()).collect(), |i| vec![i]);
        let mut best: Option<(f64, Dialogue)> = None;
        for i in candidates {
            let source = &self.sources[i];
            let (answer, likelihood) = match &options.answer {
                Some(text) => {
                    let answer = answer_ids(prompt.reader, text)?;
                    if answer.is_empty() {
                        return refuse("the answer is empty", "give some text: answer=\"TEXT\"");
                    }
                    let most = self.architecture.max_positions;
                    if prompt.ids.len() + answer.len() > most {
                        return refuse(
                            format!(
                                "prompt and answer have {} tokens; the model has {most} positions",
                                prompt.ids.len() + answer.len()
                            ),
                            "shorten the answer",
                        );
                    }
                    let known = self.expected_by(source, &prompt.ids, &answer)?;
                    let likelihood = Likelihood::of(known.iter().map(|next| next.log_prob));
                    (answer, likelihood)
                }
                None => self.own_answer(merged, source, &prompt)?,
            };
            let certainty = likelihood.nats_per_token().unwrap_or(f64::NEG_INFINITY);
            if best.as_ref().is_none_or(|(most, _)| certainty > *most) {
                let origin = match options.answer {
                    Some(_) => "as given".to_owned(),
                    None => format!("of {}", source.name()),
                };
                let ids = prompt.ids.clone();
                best = Some((certainty, Dialogue { prompt: ids, answer, like: i, origin }));
            }
        }
        let nothing =
            || Error::Sources { what: "the merge has no source".into(), hint: "load sources" };
        best.map(|(_, dialogue)| dialogue).ok_or_else(nothing)
    }

    /// Returns example `number` of the data of source `name`.
    fn row(
        &self,
        name: &str,
        number: usize,
        like: Option<usize>,
        options: &Trace,
    ) -> Result<Dialogue> {
        if options.answer.is_some() || !options.prompt.is_empty() {
            return refuse(
                "a row has its own prompt and answer",
                "give row= and of= alone, or a prompt",
            );
        }
        self.models.source(name)?;
        let data = self.models.data.get(name);
        let data = data.ok_or_else(|| Error::NoData { source_name: name.into() })?;
        let example = number.checked_sub(1).and_then(|i| data.examples.get(i));
        let Some(example) = example else {
            let expected = format!("a number from 1 to {}", data.examples.len());
            return Err(Error::bad_value("row", &number.to_string(), expected));
        };
        let most = self.models.settings.max_length.min(self.architecture.max_positions);
        let ids = &example.ids[..example.ids.len().min(most)];
        // Text without a prompt is predicted from its first token on.
        let (prompt, answer) = ids.split_at(example.prompt.max(1).min(ids.len()));
        if answer.is_empty() {
            return refuse(
                format!("row {number} of `{name}` has no answer within {most} tokens"),
                "choose another row, or raise max_length: set max_length=2048",
            );
        }
        let like = match like {
            Some(like) => like,
            None => self.index_of(name)?,
        };
        let origin = format!("of row {number} of {name}");
        Ok(Dialogue { prompt: prompt.to_vec(), answer: answer.to_vec(), like, origin })
    }

    /// Returns the index of the merged source `name`.
    fn index_of(&self, name: &str) -> Result<usize> {
        let names = || self.sources.iter().map(Source::name);
        let found = names().position(|known| known == name);
        found.ok_or_else(|| Error::unknown("source", name, names()))
    }

    /// Returns what `source` expects before each token of `answer` and after the last.
    fn expected_by(
        &self,
        source: &Source,
        prompt: &[u32],
        answer: &[u32],
    ) -> Result<Vec<NextToken>> {
        let weights = SourceWeights { source, device: self.device, dtype: self.dtype };
        let lacking = source.numbering().map_or(&[][..], |numbering| &numbering.missing_rows);
        let ids = [prompt, answer].concat();
        next_tokens(source.architecture()?, &weights, &ids, prompt.len(), lacking, self.device)
    }

    /// Returns the tokens that `source` answers with, to its end token if it ends, and their
    /// likelihood without the end token.
    fn own_answer<W: Weights + ?Sized>(
        &self,
        merged: &W,
        source: &'a Source,
        prompt: &PromptTokens<'a>,
    ) -> Result<(Vec<u32>, Likelihood)> {
        let speakers = [Speaker::source(source)?];
        let mut answer: Vec<u32> = Vec::new();
        for decoded in self.answer(merged, &speakers, prompt, 1)? {
            answer.extend(decoded.ids());
        }
        interrupt::check()?;
        let expected = self.expected_by(source, &prompt.ids, &answer)?;
        let likelihood = Likelihood::of(expected.iter().map(|next| next.log_prob));
        let end = expected.last().map(|next| next.likeliest);
        answer.extend(end.filter(|end| {
            answer.len() < prompt.limit && source.architecture().is_ok_and(|a| a.eos.contains(end))
        }));
        if answer.is_empty() {
            return refuse(
                format!("`{}` has no answer of at most {} tokens", source.name(), prompt.limit),
                "give the answer: answer=\"TEXT\"",
            );
        }
        Ok((answer, likelihood))
    }

    /// Checks that the streams of a trace of `tokens` tokens fit into memory, and on a GPU makes
    /// room for them.
    fn check_room(&self, tokens: usize) -> Result<()> {
        let needed = bytes(self.architecture, tokens, self.dtype);
        let on_device = is_composed(self.device);
        let available =
            if on_device { capacity(self.sources, self.device)? } else { available_bytes() };
        if needed > available {
            return refuse(
                format!(
                    "a trace of {tokens} tokens needs {} of memory; {} is free",
                    gigabytes(needed),
                    gigabytes(available)
                ),
                "shorten the prompt",
            );
        }
        if on_device {
            make_room(self.sources, self.device, needed)?;
        }
        Ok(())
    }
}

/// Returns the index of the answer token to trace, given what the merge expects: the first that is
/// not the most likely one, or else the least likely.
fn traced(expected: &[NextToken], answer: &[u32]) -> usize {
    let pairs = || expected.iter().zip(answer);
    let missed = pairs().position(|(next, token)| next.likeliest != *token);
    let log_prob = |next: &NextToken| next.log_prob.unwrap_or(f64::NEG_INFINITY);
    let least =
        pairs().enumerate().min_by(|(_, (a, _)), (_, (b, _))| log_prob(a).total_cmp(&log_prob(b)));
    missed.or(least.map(|(i, _)| i)).unwrap_or(0)
}

/// Returns every token that some model or patch expects.
fn expectations(traced: &Traced) -> impl Iterator<Item = u32> {
    let models = [&traced.merge].into_iter().chain(&traced.sources);
    let lens = models.flat_map(|model| &model.readings).map(|reading| reading.likeliest);
    let patched = [&traced.streams, &traced.parts, &traced.tensors].into_iter().flatten();
    let columns = traced.columns.iter().map(|(_, patched)| patched);
    lens.chain(patched.chain(columns).map(|patched| patched.reading.likeliest))
}

/// The texts of tokens, by the tokenizer of `reader`; without one, their numbers.
struct Texts<'a> {
    reader: Option<&'a Source>,
}

impl Texts<'_> {
    /// Returns the text of one token, also of a special token.
    fn one(&self, token: u32) -> String {
        let own = self.each(&[token]).ok().and_then(|all| all.into_iter().next());
        own.unwrap_or_else(|| number(token))
    }

    /// Returns the text that each of `ids` completes; special tokens have their names.
    fn each(&self, ids: &[u32]) -> Result<Vec<String>> {
        let Some(reader) = self.reader else {
            return Ok(ids.iter().map(|id| number(*id)).collect());
        };
        let named = |id: u32| {
            let name = reader.tokenizer().and_then(|tokenizer| tokenizer.id_to_token(id));
            name.unwrap_or_else(|| number(id))
        };
        let (_, parts) = self.decoded(reader, ids)?;
        let text = |(part, id): (String, &u32)| if part.is_empty() { named(*id) } else { part };
        Ok(parts.into_iter().zip(ids).map(text).collect())
    }

    /// Returns the text of all of `ids` together.
    fn whole(&self, ids: &[u32]) -> Result<String> {
        match self.reader {
            Some(reader) => Ok(self.decoded(reader, ids)?.0),
            None => Ok(self.each(ids)?.join(" ")),
        }
    }

    fn decoded(&self, reader: &Source, ids: &[u32]) -> Result<(String, Vec<String>)> {
        let mut decoder = StreamDecoder::new(reader)?;
        ids.iter().try_for_each(|id| decoder.push(*id))?;
        decoder.finish()
    }
}

/// Returns the number of a token, for want of a text.
fn number(token: u32) -> String {
    format!("#{token}")
}

impl Dam {
    /// Traces an answer through the merge and its sources: how far their residual streams are
    /// apart, what the answer's probability is after every layer, which parts contribute to it, and
    /// what brings it back when it is taken from a source: a layer's stream, a part, a tensor.
    /// Nothing changes.
    ///
    /// ```
    /// use dam_prelude::{Amount, Columns, SolveSettings, Trace, load};
    ///
    /// let models = load(["builtin:japanese", "builtin:math"])?;
    /// let dam = models.wrap_solved(Columns::default(), &SolveSettings::default())?;
    /// let broken = "model.layers.2.mlp.down_proj.weight";
    /// dam.mix(broken, &[("japanese", Amount::To(-3.0)), ("math", Amount::To(-3.0))])?;
    /// let asked = Trace { like: Some("math".into()), ..Trace::from("What is 12 plus 7?") };
    /// let report = dam.trace(asked.clone())?;
    /// assert_eq!(report.tensor(), Some(broken));
    /// dam.mix_like(broken, "math")?;
    /// assert!(dam.trace(asked)?.loss() < 0.5 * report.loss());
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Dam::generate`]; an unknown source, a row that does not exist, an answer without
    /// tokens, too little memory for the prompt, or [`Error::Interrupted`].
    pub fn trace(&self, what: impl Into<Trace>) -> Result<TraceReport> {
        let options = what.into();
        self.with_weights(|session| {
            let weights = session.merge.as_weights(session.dtype);
            let mut report = session.scorer().trace(MERGED, &weights, &options)?;
            report.mends = match report.tensor() {
                Some(tensor) => session.can_be_like(tensor)?,
                None => false,
            };
            Ok(report)
        })
    }
}

impl Merged {
    /// Traces an answer through the merge and its sources, as [`Dam::trace`] does.
    ///
    /// # Errors
    /// As for [`Dam::trace`]; or a merge whose layers are not those of its sources.
    pub fn trace(&self, what: impl Into<Trace>) -> Result<TraceReport> {
        let options = what.into();
        self.with_scorer(|scorer, plan| {
            let weights = plan.weights(scorer.device, scorer.dtype);
            scorer.trace(plan.method, &weights, &options)
        })
    }
}

impl super::Session {
    /// Whether `mix TENSOR like=SOURCE` can change the tensor `name`.
    fn can_be_like(&self, name: &str) -> Result<bool> {
        let ends = Tensor::new(&[0f32, 1.0], &Device::Cpu)?;
        let reached = self.merge.wrap.options.f.apply(&ends)?.to_dtype(DType::F32)?;
        let tensor = self.merge.tensor(name)?;
        let own = self.merge.coefficients(tensor)?.detach().copy()?;
        let settable = self.merge.set_coefficients(tensor, &own).is_ok();
        Ok(settable && reached.to_vec1::<f32>()? == [0.0, 1.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_that_the_merge_misses_is_traced() {
        let next = |likeliest, log_prob| NextToken { likeliest, log_prob: Some(log_prob) };
        let expected = [next(5, -0.1), next(6, -0.7), next(7, -0.2), next(8, 0.0)];
        assert_eq!(traced(&expected, &[5, 9, 9]), 1);
        assert_eq!(traced(&expected, &[5, 6, 7]), 1);
        assert_eq!(traced(&expected, &[5, 6, 9]), 2);
    }
}
