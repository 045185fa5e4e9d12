//! Completion of paths: files, directories and models. Listings are bounded, so that completion
//! does not wait.

use std::fs::FileType;
use std::path::Path;

use super::Candidate;
use crate::checkpoint::{BUILTIN_PREFIX, builtin_data, builtin_models, cached_names};
use crate::eval::ready_tasks;
use crate::verbs::at_home;

/// The maximum number of directory entries read.
const ENTRIES: usize = 1000;

/// What to list besides directories to descend into.
#[derive(Clone, Copy)]
pub enum Wanted {
    /// Files with one of these suffixes.
    Files(&'static [&'static str]),
    /// Only directories.
    Directories,
    /// Checkpoints: directories that contain one, and GGUF files.
    Models,
    /// Directories with a LoRA adapter.
    Adapters,
}

/// Files of data.
pub const DATA: Wanted = Wanted::Files(&[".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet"]);

/// Files of sessions.
pub const SESSIONS: Wanted = Wanted::Files(&[".safetensors", ".dam"]);

/// Completions of the path `typed`, by name.
pub fn paths(typed: &str, wanted: Wanted) -> Vec<Candidate> {
    let (directory, fragment) = typed.split_at(typed.rfind('/').map_or(0, |at| at + 1));
    let place = at_home(if directory.is_empty() { "./" } else { directory });
    let mut found: Vec<Candidate> =
        (std::fs::read_dir(&place).into_iter().flatten().take(ENTRIES).flatten())
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let hidden = name.starts_with('.') && !fragment.starts_with('.');
                if !name.starts_with(fragment) || hidden || name.chars().any(char::is_control) {
                    return None;
                }
                one(
                    &format!("{}{name}", within(directory, &name)),
                    &name,
                    &entry.path(),
                    entry.file_type().ok()?,
                    wanted,
                )
            })
            .collect();
    found.sort_by(|a, b| a.text.cmp(&b.text));
    found
}

/// The directory part of a path to `name`: `a=b` alone would be read as a key and a value.
fn within<'d>(directory: &'d str, name: &str) -> &'d str {
    if directory.is_empty() && name.contains('=') { "./" } else { directory }
}

/// Whether `text` completes `typed`, with or without a leading `./`.
pub fn goes_on(text: &str, typed: &str) -> bool {
    text.starts_with(typed) || text.strip_prefix("./").is_some_and(|rest| rest.starts_with(typed))
}

/// Completions of the name of a new file: existing files, and `typed` with each of `endings`, or
/// `suggested` if nothing is typed.
pub fn written(typed: &str, endings: &'static [&'static str], suggested: &str) -> Vec<Candidate> {
    let mut found = paths(typed, Wanted::Files(endings));
    let (directory, name) = typed.split_at(typed.rfind('/').map_or(0, |at| at + 1));
    let stem = if name.is_empty() {
        suggested
    } else {
        name.rsplit_once('.').map_or(name, |(stem, _)| stem)
    };
    if !stem.is_empty() && !name.starts_with('.') {
        let new = endings.iter().map(|ending| format!("{}{stem}{ending}", within(directory, stem)));
        let new: Vec<String> = new
            .filter(|text| goes_on(text, typed) && found.iter().all(|c| c.text != *text))
            .collect();
        found.extend(new.into_iter().map(|text| Candidate::whole(text, "a new file")));
    }
    found
}

fn one(text: &str, name: &str, path: &Path, kind: FileType, wanted: Wanted) -> Option<Candidate> {
    let is_directory = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
    let holds = |names: &[&str]| names.iter().any(|name| path.join(name).is_file());
    match wanted {
        Wanted::Models
            if is_directory
                && holds(&["config.json", "model.safetensors", "model.safetensors.index.json"]) =>
        {
            Some(Candidate::whole(text, "checkpoint"))
        }
        Wanted::Adapters if is_directory && holds(&["adapter_config.json"]) => {
            Some(Candidate::whole(text, "adapter"))
        }
        _ if is_directory => Some(Candidate::open(format!("{text}/"), "directory")),
        Wanted::Models if name.to_lowercase().ends_with(".gguf") => {
            Some(Candidate::whole(text, "GGUF file"))
        }
        Wanted::Files(endings) if endings.iter().any(|end| name.to_lowercase().ends_with(end)) => {
            Some(Candidate::whole(text, "file"))
        }
        _ => None,
    }
}

/// Completions of a source: built-in models, checkpoints, names in the hub's cache; after a `+`,
/// adapters.
pub fn sources(typed: &str) -> Vec<Candidate> {
    let named = BUILTIN_PREFIX.starts_with(typed) || typed.starts_with(BUILTIN_PREFIX);
    let builtin = builtin_models()
        .filter(|_| named)
        .map(|name| Candidate::whole(format!("{BUILTIN_PREFIX}{name}"), "built-in model"));
    builtin.chain(paths(typed, Wanted::Models)).chain(hub("", typed, false)).collect()
}

/// Completions of an adapter.
pub fn adapters(typed: &str) -> Vec<Candidate> {
    paths(typed, Wanted::Adapters).into_iter().chain(hub("", typed, false)).collect()
}

/// Completions of data: built-in sets, files, names in the hub's cache.
pub fn data(typed: &str) -> Vec<Candidate> {
    let named = BUILTIN_PREFIX.starts_with(typed) || typed.starts_with(BUILTIN_PREFIX);
    let builtin = builtin_data()
        .filter(|_| named)
        .map(|name| Candidate::whole(format!("{BUILTIN_PREFIX}{name}"), "built-in data"));
    builtin.chain(paths(typed, DATA)).chain(hub("hub:", typed, true)).collect()
}

/// Data to score on: as [`data`], and predefined tasks.
pub fn data_or_task(typed: &str) -> Vec<Candidate> {
    let named = ready_tasks().into_iter().filter(|name| name.starts_with(typed));
    let named =
        named.map(|name| Candidate::whole(name.to_owned(), "task of lm-evaluation-harness"));
    named.chain(data(typed)).collect()
}

/// Names in the hub's cache, after `prefix`.
fn hub(prefix: &str, typed: &str, are_datasets: bool) -> Vec<Candidate> {
    let is_path = typed.starts_with(['.', '/', '~']);
    let names = if is_path { Vec::new() } else { cached_names(are_datasets, ENTRIES) };
    names
        .into_iter()
        .map(|name| Candidate::whole(format!("{prefix}{name}"), "in the hub's cache"))
        .collect()
}
