//! The merge's answer with the probability of each token, quickly enough to follow a slider: the
//! sources' answers do not change with the coefficients and are generated once per prompt.

use super::{PromptTokens, Speaker};
use crate::data::StreamDecoder;
use crate::error::{Error, Result};
use crate::eval::{Generation, Likelihood, log_probs};
use crate::interrupt;
use crate::model::Weights;
use crate::session::Dam;
use crate::session::score::Scorer;
use crate::show::{AnswerProbabilities, MERGED, TokenProbability};

/// What is known about one prompt, whatever the coefficients are.
#[derive(Default)]
pub(crate) struct KnownAnswers {
    prompt: String,
    limit: usize,
    /// The sources' names and answers.
    sources: Vec<(String, String)>,
    /// The last answer of the merge, and its likelihood under each source.
    scored: Option<(Vec<u32>, Vec<Likelihood>)>,
}

impl<'a> Scorer<'a> {
    /// Generates the answer of one model, without reporting progress.
    fn quiet_answer<W: Weights + Sync + ?Sized>(
        &self,
        speaker: &Speaker<'a>,
        weights: &W,
        prompt: &PromptTokens<'a>,
    ) -> Result<StreamDecoder<'a>> {
        let generation = Generation::new(speaker.architecture, weights, &prompt.ids, self.device)
            .without(speaker.missing_rows)?;
        let mut decoded = StreamDecoder::new(prompt.reader)?;
        for token in generation.take(prompt.limit) {
            decoded.push(token?)?;
        }
        // An incomplete answer is of no use.
        interrupt::check()?;
        Ok(decoded)
    }

    /// Generates the merge's answer and computes its probabilities.
    fn probabilities<W: Weights + ?Sized>(
        &self,
        merged: &W,
        known: &mut KnownAnswers,
        text: &str,
        limit: usize,
    ) -> Result<AnswerProbabilities> {
        let prompt = self.prompt(text, limit)?;
        let speakers = self.speakers(MERGED)?;
        let Some((merge, sources)) = speakers.split_first() else {
            return Err(Error::NothingToTrain);
        };
        if (known.prompt.as_str(), known.limit) != (text, limit) || known.sources.is_empty() {
            *known = KnownAnswers { prompt: text.into(), limit, ..KnownAnswers::default() };
            let answer = |speaker: &Speaker<'a>| {
                let weights = self.load_weights(merged, speaker)?;
                let (answer, _) = self.quiet_answer(speaker, &weights, &prompt)?.finish()?;
                Ok((speaker.name.to_owned(), answer))
            };
            known.sources = sources.iter().map(answer).collect::<Result<_>>()?;
        }
        let weights = self.load_weights(merged, merge)?;
        let decoded = self.quiet_answer(merge, &weights, &prompt)?;
        let ids = decoded.ids().to_vec();
        let all = [&prompt.ids[..], &ids].concat();
        let first = prompt.ids.len();
        let own = log_probs(merge.architecture, &weights, &all, first, &[], self.device)?;
        if known.scored.as_ref().is_none_or(|(scored, _)| *scored != ids) {
            let likelihood = |speaker: &Speaker<'a>| {
                let scored = self.score_answer(merged, speaker, &prompt, &ids)?;
                Ok(Likelihood::of(scored))
            };
            let likelihoods = sources.iter().map(likelihood).collect::<Result<_>>()?;
            known.scored = Some((ids, likelihoods));
        }
        let (answer, parts) = decoded.finish()?;
        let token = |(text, log_prob): (String, &Option<f64>)| TokenProbability {
            text,
            probability: log_prob.unwrap_or(f64::NEG_INFINITY).exp(),
        };
        let scored = known.scored.iter().flat_map(|(_, likelihoods)| likelihoods);
        let sources = known.sources.iter().zip(scored);
        Ok(AnswerProbabilities {
            prompt: text.into(),
            answer,
            likelihood: Likelihood::of(own.iter().copied()),
            tokens: parts.into_iter().zip(&own).map(token).collect(),
            sources: sources.map(|((name, text), l)| (name.clone(), text.clone(), *l)).collect(),
        })
    }
}

impl Dam {
    /// Generates the merge's answer to `prompt`, with at most `limit` tokens, and computes the
    /// probability of each token under the merge, and of the answer under each source. `known`
    /// keeps what later calls for the same prompt need not compute again.
    ///
    /// # Errors
    /// As for [`Dam::generate`], or [`Error::Interrupted`].
    pub(crate) fn answer_probabilities(
        &self,
        known: &mut KnownAnswers,
        prompt: &str,
        limit: usize,
    ) -> Result<AnswerProbabilities> {
        self.with_weights(|session| {
            let weights = session.merge.as_weights(session.dtype);
            session.scorer().probabilities(&weights, known, prompt, limit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Amount, Columns, load};

    #[test]
    fn probabilities_agree_with_ask_before_and_after_a_change() {
        let models = load(["builtin:japanese", "builtin:math"]).unwrap();
        let dam = models.wrap(Columns::default()).unwrap();
        let mut known = KnownAnswers::default();
        let prompt = "What is 12 plus 7?";
        for value in [0.5, 0.9] {
            dam.mix("*", &[("math", Amount::To(value))]).unwrap();
            let found = dam.answer_probabilities(&mut known, prompt, 16).unwrap();
            let asked = dam.ask(prompt, 16).unwrap();
            assert_eq!(found.answer, asked.text);
            // `ask` scores with the merge's exact weights, this with those that generate: in bf16,
            // as the sources are.
            let apart = found.likelihood.log_likelihood - asked.likelihood.log_likelihood;
            assert!(apart.abs() < 0.1, "{apart}");
            for ((name, answer, likelihood), source) in found.sources.iter().zip(&asked.sources) {
                assert_eq!((name, answer), (&source.name, &source.answer));
                let other = source.likelihood.log_likelihood;
                assert!((likelihood.log_likelihood - other).abs() < 1e-4, "{name} {value}");
            }
            let product: f64 = found.tokens.iter().map(|token| token.probability).product();
            assert!((product.ln() - found.likelihood.log_likelihood).abs() < 1e-6);
        }
    }
}
