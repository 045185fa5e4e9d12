//! Metrics of a task: the value of each question, their mean or perplexity, and its standard error.
//!
//! A standard error of a mean is `sqrt(sum (x - mean)^2 / (n - 1) / n)`; that of a perplexity is
//! the standard deviation over 100000 bootstrap samples, drawn as the harness draws them. Word and
//! byte perplexities have none, as there.

use rayon::prelude::*;

use super::filters::Filtered;
use super::metric_list::{Measure, Metric};
use super::questions::{Gold, Question};
use super::random::Random;
use super::run::Response;
use crate::data::is_space;
use crate::error::{Error, Result};
use crate::eval::sql::Outcome;
use crate::eval::standard_error::{deviation, mean, mean_error};
use crate::interrupt;

/// Bootstrap samples: seeds, and samples of each.
const SEEDS: u32 = 100;
const SAMPLES: usize = 1000;

/// The value of a question: a number, or a log-likelihood with the number of its words or bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Item {
    Value(f64),
    Weighted(f64, f64),
}

impl Item {
    /// The number that is shown for a question.
    pub fn value(self) -> f64 {
        match self {
            Item::Value(value) | Item::Weighted(value, _) => value,
        }
    }
}

impl Metric {
    /// The value of a question from the model's response, its filtered answer, and what became of
    /// it as a query.
    ///
    /// # Errors
    /// A pattern to ignore that needs too much backtracking; `bad` makes the error.
    pub fn item(
        &self,
        question: &Question,
        response: &Response,
        (filtered, outcome): (Option<&Filtered>, Option<&Outcome>),
        bad: &impl Fn(String) -> Error,
    ) -> Result<Item> {
        let share = |is_right: bool| Item::Value(f64::from(u8::from(is_right)));
        let likelihoods = match response {
            Response::Likelihoods(all) => all.as_slice(),
            Response::Text(_) => &[],
        };
        let text = || question.continuations.first().map_or("", String::as_str);
        let total: f64 = likelihoods.iter().map(|(likelihood, ..)| likelihood).sum();
        Ok(match (self.measure, &question.gold) {
            (Measure::Perplexity, _) => Item::Value(total),
            (Measure::WordPerplexity, _) => Item::Weighted(total, words(text()) as f64),
            (Measure::BytePerplexity | Measure::BitsPerByte, _) => {
                Item::Weighted(total, text().len() as f64)
            }
            (Measure::Acc, Gold::Continuation) => {
                share(likelihoods.first().is_some_and(|(.., is_greedy)| *is_greedy))
            }
            (Measure::Execution, _) => share(outcome == Some(&Outcome::Right)),
            (Measure::ExactMatch, Gold::Texts(texts)) => {
                let filtered = filtered.ok_or_else(|| bad("it has no answer".into()))?;
                Item::Value(self.matches(texts, filtered).map_err(bad)?)
            }
            (Measure::ExactMatch, Gold::Indices(indices)) => share(indices.iter().any(|index| {
                let at = usize::try_from(*index).ok();
                at.and_then(|at| likelihoods.get(at)).is_some_and(|(.., is_greedy)| *is_greedy)
            })),
            (Measure::RightShare, Gold::Indices(indices)) => {
                let all: Vec<f64> = likelihoods.iter().map(|(x, ..)| x.exp()).collect();
                let right = |i: &i64| usize::try_from(*i).ok().and_then(|i| all.get(i));
                let right: f64 = indices.iter().filter_map(right).sum();
                Item::Value(right / all.iter().sum::<f64>())
            }
            (_, Gold::Indices(indices)) => {
                let count = question.choices.len();
                let value = |i: usize, likelihood: f64| {
                    let choice = question.choices.get(i).map_or("", String::as_str);
                    match self.measure {
                        Measure::AccNorm => likelihood / choice.chars().count() as f64,
                        Measure::AccBytes => likelihood / choice.len() as f64,
                        Measure::AccMutualInfo => {
                            likelihood - likelihoods.get(count + i).map_or(0.0, |(x, ..)| *x)
                        }
                        _ => likelihood,
                    }
                };
                let values = likelihoods.iter().take(count).enumerate();
                let best = first_max(values.map(|(i, (x, ..))| value(i, *x)));
                share(best.is_some_and(|best| indices.contains(&(best as i64))))
            }
            _ => share(false),
        })
    }

    /// The share of an answer that matches any of `texts`.
    fn matches(&self, texts: &[String], filtered: &Filtered) -> Result<f64, String> {
        let texts: Vec<String> =
            texts.iter().map(|text| self.ignore.rest(text)).collect::<Result<_, _>>()?;
        let answers = match filtered {
            Filtered::Text(text) => std::slice::from_ref(text),
            Filtered::Tags(tags) => tags,
        };
        let mut right = 0;
        for answer in answers {
            right += usize::from(texts.contains(&self.ignore.rest(answer)?));
        }
        Ok(right as f64 / answers.len().max(1) as f64)
    }

    /// The score over all questions, and its standard error if it has one.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn score(&self, items: &[Item]) -> Result<(f64, Option<f64>)> {
        let values: Vec<f64> = items.iter().map(|item| item.value()).collect();
        let weight =
            || items.iter().map(|item| if let Item::Weighted(_, w) = item { *w } else { 1.0 });
        let weighted = values.iter().sum::<f64>() / weight().sum::<f64>();
        Ok(match self.measure {
            Measure::Perplexity => ((-mean(&values)).exp(), perplexity_error(&values)?),
            Measure::WordPerplexity | Measure::BytePerplexity => ((-weighted).exp(), None),
            Measure::BitsPerByte => (-weighted / std::f64::consts::LN_2, None),
            _ => (mean(&values), mean_error(&values)),
        })
    }
}

/// The index of the first largest value, as numpy's `argmax`.
fn first_max(values: impl Iterator<Item = f64>) -> Option<usize> {
    let larger = |best: Option<(usize, f64)>, (i, x): (usize, f64)| match best {
        Some((_, most)) if x <= most || most.is_nan() => best,
        _ => Some((i, x)),
    };
    values.enumerate().fold(None, larger).map(|(i, _)| i)
}

/// Counts words as the harness does: one more than there are runs of spaces.
fn words(text: &str) -> usize {
    let mut runs = 0;
    let mut inside = false;
    for c in text.chars() {
        runs += usize::from(is_space(c) && !inside);
        inside = is_space(c);
    }
    runs + 1
}

/// The standard error of the perplexity of log-likelihoods by bootstrap.
fn perplexity_error(values: &[f64]) -> Result<Option<f64>> {
    if values.len() < 2 {
        return Ok(None);
    }
    let draws = |seed: u32| -> Result<Vec<f64>> {
        let mut random = Random::new(seed);
        let mut samples = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            interrupt::check()?;
            let count = values.len();
            let draw = |_| values[((random.random() * count as f64) as usize).min(count - 1)];
            let sum: f64 = (0..count).map(draw).sum();
            samples.push((-sum / count as f64).exp());
        }
        Ok(samples)
    };
    let samples: Vec<Vec<f64>> = (0..SEEDS).into_par_iter().map(draws).collect::<Result<_>>()?;
    Ok(Some(deviation(&samples.concat())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `len(re.split(r"\s+", text))` in Python.
    #[test]
    fn words_are_counted_as_in_the_harness() {
        let counts = ["", "a", "a b", " a  b\n", "\n\n"].map(words);
        assert_eq!(counts, [1, 1, 2, 4, 2]);
        assert_eq!(first_max([1.0, 3.0, 3.0, 2.0].into_iter()), Some(1));
        assert_eq!(first_max(std::iter::empty()), None);
    }
}
