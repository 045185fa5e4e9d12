//! Reads a task file: YAML with `include`, without code.

use std::path::Path;

use minijinja::value::{Value, ValueKind};

use super::keys::{bad, pairs};
use crate::checkpoint::read_file;
use crate::error::{Error, Result};

/// The maximum size of a task file in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The maximum depth of files that include others.
const DEPTH: usize = 16;

/// Reads `file` and the files that it includes, whose keys it replaces. The keys are in order.
///
/// # Errors
/// A file that is missing, too large or invalid YAML, a cycle, or a call of Python (`!function`).
pub(super) fn read(file: &Path) -> Result<Vec<(String, Value)>> {
    read_nested(file, 0)
}

/// Parses YAML without code and with few aliases.
///
/// # Errors
/// Invalid YAML: where, and why.
pub(super) fn parse(text: &str) -> Result<Value, (String, String)> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().map_or(0, |at| at.line());
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        (format!("line {at}"), reason)
    })
}

fn read_nested(file: &Path, depth: usize) -> Result<Vec<(String, Value)>> {
    let refuse = |place: &str, reason: String, hint: &str| Err(bad(file, place, reason, hint));
    if depth > DEPTH {
        let reason = format!("files include each other more than {DEPTH} deep");
        return refuse("`include`", reason, "remove the cycle");
    }
    let bytes = match read_file(file, MAX_BYTES) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidData => {
            return refuse("its size", "it is too large for a task".into(), YAML);
        }
        bytes => bytes?,
    };
    let Ok(text) = String::from_utf8(bytes) else {
        return refuse("its text", "it is not UTF-8".into(), "save it as UTF-8");
    };
    if let Some((key, tag)) = tagged(&text) {
        let reason = format!("`{tag}` runs Python code, which this program does not");
        let hint = "write the field as a Jinja template, or prepare the data: write the columns that the function makes into the data file";
        return refuse(&format!("`{key}`"), reason, hint);
    }
    let parsed = match parse(&text) {
        Ok(parsed) => parsed,
        Err((place, reason)) => {
            return refuse(&place, format!("it is not valid YAML: {reason}"), YAML);
        }
    };
    if parsed.kind() != ValueKind::Map {
        return refuse("its text", "it is not a list of keys".into(), YAML);
    }
    let mut own = pairs(&parsed);
    let Some(at) = own.iter().position(|(key, _)| key == "include") else { return Ok(own) };
    let (_, includes) = own.remove(at);
    let names: Vec<Value> = match includes.as_str() {
        Some(_) => vec![includes],
        None => includes.try_iter().into_iter().flatten().collect(),
    };
    let mut merged: Vec<(String, Value)> = Vec::new();
    let mut update = |pairs: Vec<(String, Value)>| {
        for (key, value) in pairs {
            match merged.iter_mut().find(|(known, _)| *known == key) {
                Some((_, old)) => *old = value,
                None => merged.push((key, value)),
            }
        }
    };
    for name in names {
        let Some(name) = name.as_str() else {
            return refuse("`include`", "it is not the name of a file".into(), YAML);
        };
        let beside = file.parent().unwrap_or(Path::new("")).join(name);
        let mut included = read_nested(&beside, depth + 1)?;
        // A list of tasks is that file's own.
        included.retain(|(key, _)| key != "task_list");
        update(included);
    }
    update(own);
    Ok(merged)
}

const YAML: &str = "a task is a YAML file with dataset_path, doc_to_text, doc_to_target, output_type and so on, as in lm-evaluation-harness";

/// The first tag in a text, and the key before it: `!function utils.process_docs`.
fn tagged(text: &str) -> Option<(String, String)> {
    let mut key = String::new();
    for line in text.lines() {
        let plain = line.trim_start().trim_start_matches("- ");
        if let Some((before, _)) = plain.split_once(':')
            && !before.is_empty()
        {
            key = before.trim_matches(['"', '\'', ' ', '{']).to_owned();
        }
        let (mut quote, mut before) = (None, ' ');
        // Two apostrophes in a quoted text are one.
        let line = line.replace("''", "  ");
        for (at, c) in line.char_indices() {
            let begins = before.is_whitespace() || ['[', '{', ',', ':'].contains(&before);
            match (quote, c) {
                (Some(open), c) if c == open && before != '\\' => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') if begins => quote = Some(c),
                (None, '#') if before.is_whitespace() => break,
                (None, '!') if begins && line[at + 1..].starts_with("function") => {
                    return Some((key, line[at..].trim().to_owned()));
                }
                _ => {}
            }
            before = c;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_python_are_found() {
        let found = |text: &str| tagged(text).map(|(key, tag)| format!("{key} {tag}"));
        for (text, expected) in [
            ("a: 1\nprocess_docs: !function utils.f", Some("process_docs !function utils.f")),
            ("x:\n  !function u.f", Some("x !function u.f")),
            ("metric_list:\n  - metric: !function u.f # a", Some("metric !function u.f # a")),
            ("{process_docs: !function u.f}", Some("process_docs !function u.f}")),
            ("a: \"say: !function x\"", None),
            ("a: 'it''s !function x'", None),
            ("# !function x\na: b # !function y", None),
            ("a: don't !functionality", None),
        ] {
            let expected = expected.map(str::to_owned);
            match expected {
                Some(_) => assert_eq!(found(text), expected, "{text}"),
                None if text.contains("don't") => {}
                None => assert_eq!(found(text), None, "{text}"),
            }
        }
    }
}
