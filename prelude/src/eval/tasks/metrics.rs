//! Metrics of a task: the value of each question, their mean or perplexity, and its standard error.
//!
//! A standard error of a mean is `sqrt(sum (x - mean)^2 / (n - 1) / n)`; that of a perplexity is the
//! standard deviation over 100000 bootstrap samples, drawn as the harness draws them. Word and byte
//! perplexities have none, as there.

use rayon::prelude::*;

use super::config::Output;
use super::filters::Filtered;
use super::keys::Keys;
use super::questions::{Gold, Question};
use super::random::Random;
use super::run::Response;
use crate::data::PythonRegex;
use crate::error::{Error, Result};
use crate::interrupt;

/// Bootstrap samples: seeds, and samples of each.
const SEEDS: u32 = 100;
const SAMPLES: usize = 1000;

/// The kinds of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Acc,
    AccNorm,
    AccBytes,
    AccMutualInfo,
    ExactMatch,
    Perplexity,
    WordPerplexity,
    BytePerplexity,
    BitsPerByte,
}

/// A kind with its name, aggregation, and the output types that have it.
struct Known {
    measure: Measure,
    name: &'static str,
    aggregation: &'static str,
    outputs: &'static [Output],
    is_default: bool,
}

const fn known(
    measure: Measure,
    name: &'static str,
    aggregation: &'static str,
    outputs: &'static [Output],
    is_default: bool,
) -> Known {
    Known { measure, name, aggregation, outputs, is_default }
}

const CHOICE: &[Output] = &[Output::MultipleChoice];
const ROLLING: &[Output] = &[Output::Rolling];

/// All metrics; defaults in the harness's order.
const KNOWN: [Known; 10] = [
    known(Measure::Perplexity, "perplexity", "perplexity", &[Output::Likelihood], true),
    known(Measure::Acc, "acc", "mean", &[Output::MultipleChoice, Output::Likelihood], true),
    known(Measure::AccNorm, "acc_norm", "mean", CHOICE, true),
    known(Measure::AccBytes, "acc_bytes", "mean", CHOICE, false),
    known(Measure::AccMutualInfo, "acc_mutual_info", "mean", CHOICE, false),
    known(Measure::ExactMatch, "exact_match", "mean", &[Output::Generate], true),
    known(Measure::ExactMatch, "exact_match", "mean", CHOICE, false),
    known(Measure::WordPerplexity, "word_perplexity", "weighted_perplexity", ROLLING, true),
    known(Measure::BytePerplexity, "byte_perplexity", "weighted_perplexity", ROLLING, true),
    known(Measure::BitsPerByte, "bits_per_byte", "bits_per_byte", ROLLING, true),
];

/// A metric of a task.
#[derive(Clone, Debug)]
pub(super) struct Metric {
    measure: Measure,
    pub name: &'static str,
    pub higher_is_better: bool,
    ignore: Ignore,
}

/// What an exact match does not compare.
#[derive(Clone, Debug, Default)]
struct Ignore {
    patterns: Vec<PythonRegex>,
    case: bool,
    punctuation: bool,
    numbers: bool,
}

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

/// Reads `metric_list`.
///
/// # Errors
/// A metric that is unknown or that the output type does not have, or an option that is not followed.
pub(super) fn metrics(keys: &mut Keys<'_>, output: Output) -> Result<Vec<Metric>> {
    let own = || KNOWN.iter().filter(|known| known.outputs.contains(&output));
    let metric = |known: &Known, higher: Option<bool>, ignore: Ignore| Metric {
        measure: known.measure,
        name: known.name,
        higher_is_better: higher.unwrap_or(known.aggregation == "mean"),
        ignore,
    };
    let Some(listed) = keys.list("metric_list") else {
        let defaults = own().filter(|known| known.is_default);
        return Ok(defaults.map(|known| metric(known, None, Ignore::default())).collect());
    };
    let mut metrics: Vec<Metric> = Vec::new();
    for (i, value) in listed.iter().enumerate() {
        let mut inside = Keys::within(keys.file, &format!("metric_list[{i}]"), value)?;
        let name = inside.required("metric")?;
        let Some(found) = own().find(|known| known.name == name) else {
            let names: Vec<&str> = own().map(|known| known.name).collect();
            let hint = format!("metrics of {}: {}", output.name(), names.join(", "));
            let reason = format!("`{name}` is not supported for {}", output.name());
            return Err(inside.bad("metric", reason, hint));
        };
        if metrics.iter().any(|own| own.name == found.name) {
            return Err(inside.bad("metric", format!("`{name}` is listed twice"), "list it once"));
        }
        if inside.text("aggregation")?.is_some_and(|own| own != found.aggregation) {
            let reason = format!("`{name}` is aggregated by {}", found.aggregation);
            return Err(inside.bad("aggregation", reason, "remove it"));
        }
        let higher = inside.flag("higher_is_better")?;
        let compares = found.measure == Measure::ExactMatch && output == Output::Generate;
        let ignore = if compares { ignore(&mut inside)? } else { Ignore::default() };
        if inside.flag("hf_evaluate")? == Some(true) {
            let hint = "remove it: exact_match is the same";
            return Err(inside.bad("hf_evaluate", "metrics are not downloaded", hint));
        }
        inside.finish()?;
        metrics.push(metric(found, higher, ignore));
    }
    match metrics.is_empty() {
        true => Err(keys.bad("metric_list", "it is empty", "remove it for the default metrics")),
        false => Ok(metrics),
    }
}

fn ignore(keys: &mut Keys<'_>) -> Result<Ignore> {
    let key = "regexes_to_ignore";
    let patterns = match keys.take(key) {
        None => Vec::new(),
        Some(value) => {
            let items = value.try_iter().ok().filter(|_| value.as_str().is_none());
            let hint = "write a list of Python regular expressions, in quotes";
            let bad = |reason: String| keys.bad(key, reason, hint);
            let items = items.ok_or_else(|| bad("it is not a list of texts".into()))?;
            let compile = |item: minijinja::Value| match item.as_str() {
                Some(text) => PythonRegex::new(text).map_err(bad),
                None => Err(bad(format!("`{item}` is not a text"))),
            };
            items.map(compile).collect::<Result<_>>()?
        }
    };
    Ok(Ignore {
        patterns,
        case: keys.flag("ignore_case")?.unwrap_or(false),
        punctuation: keys.flag("ignore_punctuation")?.unwrap_or(false),
        numbers: keys.flag("ignore_numbers")?.unwrap_or(false),
    })
}

impl Ignore {
    /// What is compared of `text`.
    fn rest(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        for pattern in &self.patterns {
            text = pattern.replace_all(&text, "")?;
        }
        if self.case {
            text = text.to_lowercase();
        }
        let is_kept = |c: &char| {
            !(self.punctuation && c.is_ascii_punctuation()) && !(self.numbers && c.is_ascii_digit())
        };
        text.retain(|c| is_kept(&c));
        Ok(text)
    }
}

impl Metric {
    /// Whether it needs likelihoods without a context.
    pub fn is_mutual(&self) -> bool {
        self.measure == Measure::AccMutualInfo
    }

    /// Whether it is a share of right answers, from 0 to 1.
    pub fn is_share(&self) -> bool {
        KNOWN.iter().any(|known| known.measure == self.measure && known.aggregation == "mean")
    }

    /// The value of a question from the model's response.
    ///
    /// # Errors
    /// A pattern to ignore that needs too much backtracking; `bad` makes the error.
    pub fn item(
        &self,
        question: &Question,
        response: &Response,
        filtered: Option<&Filtered>,
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
            (Measure::ExactMatch, Gold::Texts(texts)) => {
                let filtered = filtered.ok_or_else(|| bad("it has no answer".into()))?;
                Item::Value(self.matches(texts, filtered).map_err(bad)?)
            }
            (Measure::ExactMatch, Gold::Indices(indices)) => share(indices.iter().any(|index| {
                let at = usize::try_from(*index).ok();
                at.and_then(|at| likelihoods.get(at)).is_some_and(|(.., is_greedy)| *is_greedy)
            })),
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
    let is_space = |c: char| crate::data::strip(c.encode_utf8(&mut [0; 4])).is_empty();
    let mut runs = 0;
    let mut inside = false;
    for c in text.chars() {
        runs += usize::from(is_space(c) && !inside);
        inside = is_space(c);
    }
    runs + 1
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation of a sample.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

/// The standard error of a mean: the deviation of the sample over the root of its size. None for
/// fewer than two values.
///
/// ```
/// use dam_prelude::eval::mean_error;
///
/// assert_eq!(mean_error(&[1.0, 0.0, 1.0, 0.0, 1.0]), Some(0.2449489742783178));
/// assert_eq!(mean_error(&[1.0]), None);
/// ```
pub fn mean_error(values: &[f64]) -> Option<f64> {
    (values.len() > 1).then(|| deviation(values) / (values.len() as f64).sqrt())
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

    #[test]
    fn an_exact_match_ignores_what_it_is_told_to() {
        let pattern = |text| PythonRegex::new(text).unwrap();
        let all = Ignore {
            patterns: vec![pattern("(?s).*#### "), pattern(",")],
            case: true,
            punctuation: true,
            numbers: true,
        };
        assert_eq!(all.rest("x\n#### 1,200 Apples!").as_deref(), Ok(" apples"));
        assert_eq!(Ignore::default().rest("A 1.").as_deref(), Ok("A 1."));
    }
}
