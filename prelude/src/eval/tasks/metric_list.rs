//! The metrics of a task: `metric_list`.

use super::keys::Keys;
use super::output::Output;
use crate::data::PythonRegex;
use crate::error::Result;

/// The kinds of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Acc,
    /// The probability of the right choices among all.
    RightShare,
    AccNorm,
    AccBytes,
    AccMutualInfo,
    ExactMatch,
    /// Whether a query returns what its reference returns.
    Execution,
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

/// The metric of queries that are run, which the harness does not have.
pub(super) const EXECUTION: &str = "execution_accuracy";

/// All metrics; defaults in the harness's order.
const KNOWN: [Known; 11] = [
    known(Measure::Perplexity, "perplexity", "perplexity", &[Output::Likelihood], true),
    known(Measure::Acc, "acc", "mean", &[Output::MultipleChoice, Output::Likelihood], true),
    known(Measure::AccNorm, "acc_norm", "mean", CHOICE, true),
    known(Measure::AccBytes, "acc_bytes", "mean", CHOICE, false),
    known(Measure::AccMutualInfo, "acc_mutual_info", "mean", CHOICE, false),
    known(Measure::ExactMatch, "exact_match", "mean", &[Output::Generate], true),
    known(Measure::ExactMatch, "exact_match", "mean", CHOICE, false),
    known(Measure::Execution, EXECUTION, "mean", &[Output::Generate], false),
    known(Measure::WordPerplexity, "word_perplexity", "weighted_perplexity", ROLLING, true),
    known(Measure::BytePerplexity, "byte_perplexity", "weighted_perplexity", ROLLING, true),
    known(Measure::BitsPerByte, "bits_per_byte", "bits_per_byte", ROLLING, true),
];

/// A metric of a task.
#[derive(Clone, Debug)]
pub(super) struct Metric {
    pub measure: Measure,
    pub name: &'static str,
    pub higher_is_better: bool,
    pub ignore: Ignore,
}

/// What an exact match does not compare.
#[derive(Clone, Debug, Default)]
pub(super) struct Ignore {
    patterns: Vec<PythonRegex>,
    case: bool,
    punctuation: bool,
    numbers: bool,
}

/// Reads `metric_list`.
///
/// # Errors
/// A metric that is unknown or that the output type does not have, or an option that is not
/// followed.
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
    if let Some(name) = keys.text("process_results")? {
        const MC2: &str = "truthfulqa_mc2";
        if name != MC2 || output != Output::MultipleChoice || metrics.len() != 1 {
            let hint = "use metric_list; truthfulqa_mc2 is for one metric of multiple_choice: acc";
            return Err(keys.bad("process_results", format!("`{name}` is not followed"), hint));
        }
        metrics.iter_mut().for_each(|metric| metric.measure = Measure::RightShare);
    }
    if metrics.is_empty() {
        Err(keys.bad("metric_list", "it is empty", "remove it for the default metrics"))
    } else {
        Ok(metrics)
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
    pub fn rest(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        for pattern in &self.patterns {
            text = pattern.replace_all(&text, "")?;
        }
        if self.case {
            text = text.to_lowercase();
        }
        let is_ignored = |c: char| {
            (self.punctuation && c.is_ascii_punctuation()) || (self.numbers && c.is_ascii_digit())
        };
        text.retain(|c| !is_ignored(c));
        Ok(text)
    }
}

impl Metric {
    /// Whether it needs likelihoods without a context.
    pub fn is_mutual(&self) -> bool {
        self.measure == Measure::AccMutualInfo
    }

    /// Whether it is an accuracy, from 0 to 1.
    pub fn is_share(&self) -> bool {
        KNOWN.iter().any(|known| known.name == self.name && known.aggregation == "mean")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
