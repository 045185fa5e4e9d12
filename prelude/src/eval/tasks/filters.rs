//! Filters of generated answers: `filter_list`, a pipeline of filters for each of its names.

use minijinja::value::{Value, ValueKind};

use super::keys::Keys;
use super::output::Output;
use crate::data::{PythonRegex, place, strip};
use crate::error::{Error, Result};

/// Filters in a row, with the name that their scores have.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub name: String,
    steps: Vec<Step>,
}

/// A filter of an answer.
#[derive(Clone, Debug)]
enum Step {
    /// A match of a pattern, or the fallback.
    Regex {
        pattern: PythonRegex,
        select: i64,
        fallback: String,
    },
    /// The tags of words in a list of pairs, or the fallback.
    Tags {
        pattern: PythonRegex,
        fallback: Vec<String>,
    },
    Strip,
    Lowercase,
    Uppercase,
    /// What a table has for the answer, or the default.
    Map {
        table: Vec<(String, String)>,
        default: String,
    },
}

/// An answer after its filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filtered {
    Text(String),
    Tags(Vec<String>),
}

/// What the harness's `regex` and `regex_pos` use by default.
const PATTERN: &str = "#### (\\-?[0-9\\.\\,]+)";
const PAIRS: &str = "\\('([^']*)', '([^']*)'\\)";
const FALLBACK: &str = "[invalid]";

/// The filters that are known, by name.
const FILTERS: [&str; 7] =
    ["regex", "regex_pos", "remove_whitespace", "lowercase", "uppercase", "map", "take_first"];

/// Reads `filter_list`.
///
/// # Errors
/// A filter that is unknown, or whose options cannot be followed.
pub(super) fn pipelines(keys: &mut Keys<'_>, output: Output) -> Result<Vec<Pipeline>> {
    let none = || Pipeline { name: "none".into(), steps: Vec::new() };
    let Some(listed) = keys.list("filter_list") else { return Ok(vec![none()]) };
    let mut pipelines: Vec<Pipeline> = Vec::new();
    for (i, value) in listed.iter().enumerate() {
        let place = format!("filter_list[{i}]");
        let mut inside = Keys::within(keys.file, &place, value)?;
        let name = inside.required("name")?;
        let filters = inside.list("filter").unwrap_or_default();
        inside.finish()?;
        if pipelines.iter().any(|own| own.name == name) {
            let reason = format!("the name `{name}` is used twice");
            return Err(keys.bad("filter_list", reason, "give each pipeline its own name"));
        }
        let mut steps = Vec::new();
        for (j, value) in filters.iter().enumerate() {
            let place = format!("{place}.filter[{j}]");
            let mut inside = Keys::within(keys.file, &place, value)?;
            let step = step(&mut inside)?;
            let is_last = j + 1 == filters.len();
            if step.is_none() != is_last {
                let hint = "end every pipeline with one `- function: take_first`";
                let reason = if is_last {
                    "the last filter is not take_first"
                } else {
                    "take_first is not the last filter"
                };
                return Err(inside.bad("function", reason, hint));
            }
            inside.finish()?;
            steps.extend(step);
        }
        if filters.is_empty() {
            let hint = "add `- function: take_first`";
            return Err(keys.bad("filter_list", format!("`{name}` has no filter"), hint));
        }
        if output != Output::Generate && !steps.is_empty() {
            let reason = format!("{} has no text to filter", output.name());
            return Err(keys.bad("filter_list", reason, "remove it"));
        }
        pipelines.push(Pipeline { name, steps });
    }
    Ok(if pipelines.is_empty() { vec![none()] } else { pipelines })
}

/// Reads a filter; none for `take_first`, since every answer is generated once.
fn step(keys: &mut Keys<'_>) -> Result<Option<Step>> {
    let name = keys.required("function")?;
    let compiled = |keys: &Keys<'_>, pattern: &str| {
        let hint = "write it as a Python regular expression";
        PythonRegex::new(pattern).map_err(|reason| keys.bad("regex_pattern", reason, hint))
    };
    Ok(Some(match name.as_str() {
        "take_first" => return Ok(None),
        "regex" => {
            let pattern = keys.text("regex_pattern")?.unwrap_or_else(|| PATTERN.into());
            Step::Regex {
                pattern: compiled(keys, &pattern)?,
                select: keys.integer("group_select")?.unwrap_or(0),
                fallback: keys.text("fallback")?.unwrap_or_else(|| FALLBACK.into()),
            }
        }
        "regex_pos" => {
            // The harness accepts these two and uses neither.
            keys.skip(&["regex_pattern", "group_select"]);
            let fallback = keys.texts("fallback")?;
            let fallback = fallback.unwrap_or_else(|| vec!["invalid".into()]);
            Step::Tags { pattern: compiled(keys, PAIRS)?, fallback }
        }
        "remove_whitespace" => Step::Strip,
        "lowercase" => Step::Lowercase,
        "uppercase" => Step::Uppercase,
        "map" => map(keys)?,
        other => {
            let known = format!("supported filters: {}", FILTERS.join(", "));
            return Err(keys.bad("function", format!("unknown filter `{other}`"), known));
        }
    }))
}

fn map(keys: &mut Keys<'_>) -> Result<Step> {
    let table = keys.take("mapping_dict").unwrap_or_default();
    let hint = "write an object of texts and a default_value that is a text";
    let pair = |key: Value| {
        let value = table.get_item(&key).ok()?;
        Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()))
    };
    let pairs = Some(&table).filter(|table| table.kind() == ValueKind::Map);
    let pairs: Option<Vec<_>> =
        pairs.and_then(|table| table.try_iter().ok()).and_then(|keys| keys.map(pair).collect());
    let pairs =
        pairs.ok_or_else(|| keys.bad("mapping_dict", "it is not a table of texts", hint))?;
    let default = keys.required("default_value")?;
    Ok(Step::Map { table: pairs, default })
}

impl Pipeline {
    /// Whether an answer may become a list of tags.
    pub fn makes_tags(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Tags { .. }))
    }

    /// Filters an answer.
    ///
    /// # Errors
    /// A pattern that needs too much backtracking.
    pub fn apply(&self, answer: &str, bad: &impl Fn(String) -> Error) -> Result<Filtered> {
        let mut filtered = Filtered::Text(answer.to_owned());
        for step in &self.steps {
            let Filtered::Text(text) = filtered else {
                return Err(bad("a filter follows regex_pos, whose result is a list".into()));
            };
            filtered = step.apply(text).map_err(bad)?;
        }
        Ok(filtered)
    }
}

impl Step {
    fn apply(&self, text: String) -> Result<Filtered, String> {
        Ok(Filtered::Text(match self {
            Step::Regex { pattern, select, fallback } => {
                let found = pattern.find_all(&text)?;
                match place(*select, found.len()).and_then(|at| found.get(at)) {
                    None => fallback.clone(),
                    // The match, or its only group, even if it is empty.
                    Some(groups) if groups.len() == 1 => strip(&groups[0]).to_owned(),
                    Some(groups) => {
                        let group = groups.iter().find(|group| !group.is_empty());
                        strip(group.unwrap_or(fallback)).to_owned()
                    }
                }
            }
            Step::Tags { pattern, fallback } => {
                let found = pattern.find_all(&text)?;
                let tags: Vec<String> =
                    found.into_iter().filter_map(|groups| groups.into_iter().nth(1)).collect();
                return Ok(Filtered::Tags(if tags.is_empty() { fallback.clone() } else { tags }));
            }
            Step::Strip => strip(&text).to_owned(),
            Step::Lowercase => text.to_lowercase(),
            Step::Uppercase => text.to_uppercase(),
            Step::Map { table, default } => {
                let found = table.iter().find(|(from, _)| *from == text);
                found.map_or(default, |(_, to)| to).clone()
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_selected_from_either_end() {
        let filter = |pattern: &str, select: i64, text: &str| {
            let pattern = PythonRegex::new(pattern).unwrap();
            let step = Step::Regex { pattern, select, fallback: "none".into() };
            match step.apply(text.into()).unwrap() {
                Filtered::Text(text) => text,
                Filtered::Tags(_) => unreachable!(),
            }
        };
        assert_eq!(filter("\\d+", 0, "1 22 333"), "1");
        assert_eq!(filter("\\d+", -1, "1 22 333"), "333");
        assert_eq!(filter("\\d+", 1, "1 22 333"), "22");
        assert_eq!(filter("\\d+", 3, "1 22 333"), "none");
        assert_eq!(filter("\\d+", -4, "1 22 333"), "none");
        assert_eq!(filter("(a)|(b)| ", 0, "b"), "b");
        assert_eq!(filter("(a)|(b)|c", 0, "c"), "none");
        assert_eq!(filter("x*", 0, "b"), "");
    }

    #[test]
    fn tags_are_the_second_of_each_pair() {
        let tags =
            Step::Tags { pattern: PythonRegex::new(PAIRS).unwrap(), fallback: vec!["?".into()] };
        let texts = |texts: &[&str]| Filtered::Tags(texts.iter().map(|t| (*t).into()).collect());
        let apply = |text: &str| tags.apply(text.into()).unwrap();
        assert_eq!(apply("[('a', 'NOUN'), ('b', 'VERB')]"), texts(&["NOUN", "VERB"]));
        assert_eq!(apply("none"), texts(&["?"]));
    }
}
