//! What in a directory is no part of a checkpoint, and must not be lost where one is replaced.

use std::fs;
use std::io::Read;
use std::path::Path;

use super::beside::recorded;
use super::regular::open_file;

/// The first thing in the directory `path` that no checkpoint has: all but weights, a model card, files that every
/// checkpoint has, and those that the card says were copied there. A link is never replaced.
pub(super) fn foreign(path: &Path) -> Option<String> {
    let mut card = String::new();
    if let Ok(file) = open_file(&path.join("README.md")) {
        let _ = file.take(LONGEST_CARD).read_to_string(&mut card);
    }
    let recorded = recorded(&card);
    let weights = |name: &str| {
        name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
            || ["adapter_config.json", "adapter_model.safetensors"].contains(&name)
    };
    let known = |name: &str| weights(name) || COMMON.contains(&name) || recorded.contains(name);
    foreign_below(path, "", &known)
}

/// Files that any checkpoint may have, whoever wrote it.
const COMMON: [&str; 11] = [
    "README.md",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Bytes of a model card that are read.
const LONGEST_CARD: u64 = 4 << 20;

/// Directories within each other that are looked into.
const DEEPEST: usize = 8;

/// The first file below `directory`, by its name from where `prefix` begins, that is not `known` or is no file.
fn foreign_below(directory: &Path, prefix: &str, known: &impl Fn(&str) -> bool) -> Option<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Some(prefix.to_owned()) };
    let mut is_empty = true;
    for entry in entries {
        is_empty = false;
        let Ok(entry) = entry else { return Some(prefix.to_owned()) };
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let is_fine = match entry.file_type() {
            Ok(kind) if kind.is_dir() && prefix.matches('/').count() < DEEPEST => {
                match foreign_below(&entry.path(), &format!("{name}/"), known) {
                    None => true,
                    found => return found,
                }
            }
            Ok(kind) => kind.is_file() && known(&name),
            Err(_) => false,
        };
        if !is_fine {
            return Some(name);
        }
    }
    // An empty directory within is somebody's.
    (is_empty && !prefix.is_empty()).then(|| prefix.to_owned())
}
