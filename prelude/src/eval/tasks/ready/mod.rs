//! Predefined tasks: the definitions of lm-evaluation-harness 0.4, whose scores
//! people publish, with data from the Hugging Face hub; text to SQL on data in Spider's layout; and
//! three small ones with built-in data.

mod mmlu;

use std::path::Path;

use minijinja::value::Value;

use super::keys::{bad, pairs};
use super::yaml;
use crate::error::{Result, nearest};

/// A task by its name in the harness: keys, and others that replace some of them.
struct Ready {
    name: &'static str,
    text: &'static str,
    replaced: &'static [(&'static str, &'static str)],
}

const fn ready(
    name: &'static str,
    text: &'static str,
    replaced: &'static [(&'static str, &'static str)],
) -> Ready {
    Ready { name, text, replaced }
}

const ARC: &str = include_str!("arc.yaml");
const TRUTHFUL: &str = include_str!("truthfulqa.yaml");
const SQL: &str = include_str!("text_to_sql.yaml");

/// The prefix of a directory in Spider's layout: `spider:DIR`.
pub(crate) const SPIDER_PREFIX: &str = "spider:";

/// All tasks but those of MMLU and Spider.
const READY: [Ready; 13] = [
    ready("arc_challenge", ARC, &[("dataset_name", "ARC-Challenge")]),
    ready("arc_easy", ARC, &[("dataset_name", "ARC-Easy")]),
    ready("gsm8k", include_str!("gsm8k.yaml"), &[]),
    ready("hellaswag", include_str!("hellaswag.yaml"), &[]),
    ready("ja_leaderboard_jcommonsenseqa", include_str!("jcommonsenseqa.yaml"), &[]),
    ready("mgsm_direct_ja", include_str!("mgsm_direct_ja.yaml"), &[]),
    ready("mgsm_native_cot_ja", include_str!("mgsm_native_cot_ja.yaml"), &[]),
    ready("mini_japanese", include_str!("mini_japanese.yaml"), &[]),
    ready("mini_math", include_str!("mini_math.yaml"), &[]),
    ready("mini_sql", SQL, &[("dataset_path", "builtin:mini_sql")]),
    ready(
        "truthfulqa_mc1",
        TRUTHFUL,
        &[("doc_to_target", "{{0}}"), ("doc_to_choice", "{{mc1_targets.choices}}")],
    ),
    ready(
        "truthfulqa_mc2",
        TRUTHFUL,
        &[
            ("process_docs", "truthfulqa_mc2"),
            ("process_results", "truthfulqa_mc2"),
            ("doc_to_target", "right"),
            ("doc_to_choice", "{{mc2_targets.choices}}"),
        ],
    ),
    ready("winogrande", include_str!("winogrande.yaml"), &[]),
];

/// Shorter names for some of them.
const ALIASES: [(&str, &str); 2] =
    [("jcommonsenseqa", "ja_leaderboard_jcommonsenseqa"), ("mgsm_ja", "mgsm_direct_ja")];

/// A predefined task or group of tasks.
pub(super) enum Found {
    /// The keys of a task.
    Task(Vec<(String, Value)>),
    /// The tasks of a group, whose score is the mean of theirs, weighted by their sizes.
    Group(Vec<String>),
}

/// The names that can be given, without the subjects of MMLU.
pub(crate) fn ready_tasks() -> Vec<&'static str> {
    let mut names: Vec<&str> = READY.iter().map(|ready| ready.name).collect();
    names.extend(ALIASES.map(|(alias, _)| alias));
    names.extend(mmlu::groups());
    names.sort_unstable();
    names
}

/// Whether `name` is a predefined task or group.
pub(super) fn is_ready(name: &str) -> bool {
    name.starts_with(SPIDER_PREFIX)
        || ready_tasks().contains(&name)
        || mmlu::subject(name).is_some()
}

/// Finds the task or group `name`.
///
/// # Errors
/// There is none; the message names the nearest.
pub(super) fn find(name: &str) -> Result<Found> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, own)| own);
    if let Some(tasks) = mmlu::tasks(name) {
        return Ok(Found::Group(tasks));
    }
    let texts = |replaced: &[(&str, &str)]| {
        replaced.iter().map(|(key, text)| ((*key).to_owned(), Value::from(*text))).collect()
    };
    let (text, mut replaced): (&str, Vec<(String, Value)>) =
        if let Some(ready) = READY.iter().find(|ready| ready.name == name) {
            (ready.text, texts(ready.replaced))
        } else if let Some(directory) = name.strip_prefix(SPIDER_PREFIX) {
            (SQL, spider(Path::new(directory)))
        } else if let Some(subject) = mmlu::subject(name) {
            let description = mmlu::description(subject);
            (mmlu::TEXT, texts(&[("dataset_name", subject), ("description", &description)]))
        } else {
            let hint = match nearest(name, ready_tasks()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("name a file, or one of {}", ready_tasks().join(", ")),
            };
            return Err(bad(Path::new(name), "its name", "there is no such task", hint));
        };
    let own = name.split(':').next().unwrap_or(name);
    replaced.push(("task".into(), Value::from(own)));
    let parsed = yaml::parse(text);
    let parsed = parsed.map_err(|(place, reason)| bad(Path::new(name), place, reason, ""))?;
    let mut keys = pairs(&parsed);
    keys.retain(|(key, _)| !replaced.iter().any(|(own, _)| own == key));
    keys.extend(replaced);
    Ok(Found::Task(keys))
}

/// The keys of text to SQL on the questions of Spider's `dev.json` in `directory`.
fn spider(directory: &Path) -> Vec<(String, Value)> {
    let inside = |name: &str| directory.join(name).display().to_string();
    let files = Value::from_pairs([("test", inside("dev.json"))]);
    [
        ("dataset_path", Value::from("json")),
        ("dataset_kwargs", Value::from_pairs([("data_files", files)])),
        ("database", Value::from_pairs([("directory", inside("database"))])),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;

    #[test]
    fn every_name_is_a_task_or_a_group_of_such() {
        for name in ready_tasks() {
            let tasks = match find(name).unwrap() {
                Found::Task(_) => vec![name.to_owned()],
                Found::Group(tasks) => tasks,
            };
            for task in tasks {
                let Found::Task(keys) = find(&task).unwrap() else { panic!("{task}") };
                Config::new(Path::new(&task), keys).unwrap();
            }
        }
        let hint = find("hellaswg").err().unwrap().hint().unwrap();
        assert_eq!(hint, "did you mean `hellaswag`?");
        let Found::Group(all) = find("mmlu").unwrap() else { panic!() };
        assert_eq!(all.len(), 57);
    }
}
