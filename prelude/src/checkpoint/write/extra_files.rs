//! Finds files that are not part of a checkpoint, so that replacing a directory does not delete
//! them.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::checkpoint::side_files::recorded;
use crate::checkpoint::storage::open_file;

/// The first entry of the directory `path` that is not part of a checkpoint: anything but weights,
/// a model card, common checkpoint files, and files that the card lists as copied. Links are never
/// part of one.
pub(crate) fn extra_file(path: &Path) -> Option<String> {
    let mut card = String::new();
    if let Ok(file) = open_file(&path.join("README.md")) {
        let _ = file.take(MAX_CARD_BYTES).read_to_string(&mut card);
    }
    let recorded = recorded(&card);
    let weights = |name: &str| {
        name.starts_with("model")
            && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
            || ["adapter_config.json", "adapter_model.safetensors"].contains(&name)
    };
    let known = |name: &str| weights(name) || COMMON.contains(&name) || recorded.contains(name);
    extra_file_below(path, "", &known)
}

/// Files that any checkpoint may have.
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

/// The maximum size of a model card in bytes.
const MAX_CARD_BYTES: u64 = 4 << 20;

/// The maximum directory depth.
const MAX_DEPTH: usize = 8;

/// The first entry below `directory`, with its name prefixed by `prefix`, that is not `known` or
/// not a regular file.
fn extra_file_below(
    directory: &Path,
    prefix: &str,
    known: &impl Fn(&str) -> bool,
) -> Option<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Some(prefix.to_owned()) };
    let mut is_empty = true;
    for entry in entries {
        is_empty = false;
        let Ok(entry) = entry else { return Some(prefix.to_owned()) };
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let is_fine = match entry.file_type() {
            Ok(kind) if kind.is_dir() && prefix.matches('/').count() < MAX_DEPTH => {
                match extra_file_below(&entry.path(), &format!("{name}/"), known) {
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
    // An empty subdirectory is not part of a checkpoint.
    (is_empty && !prefix.is_empty()).then(|| prefix.to_owned())
}
