//! The tokenizer and chat template stored with an adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::source::{Bytes, map};
use crate::error::{Error, Result};

/// The file that makes a tokenizer.
const TOKENIZER: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// The files of a tokenizer and its chat template.
pub(in crate::checkpoint) const FILES: [&str; 8] = [
    TOKENIZER,
    SETTINGS,
    TEMPLATE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Files that replace the base's, with their directories; `None` hides the base's file.
pub(in crate::checkpoint) type FileOverrides = BTreeMap<&'static str, (PathBuf, Option<Bytes>)>;

/// Adds the files stored with the adapter in `directory`; they override files that are already
/// there. A tokenizer comes with its own settings and template and hides all of the base's.
/// Settings or a template alone hide only what they replace.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn add(directory: &Path, files: &mut FileOverrides) -> Result<()> {
    let mut found = BTreeMap::new();
    for name in FILES {
        match map(&directory.join(name)) {
            Ok(bytes) => drop(found.insert(name, bytes)),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let settings = found
        .get(SETTINGS)
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok());
    let has_template = settings.is_some_and(|settings| !settings["chat_template"].is_null());
    let hidden: &[&'static str] = match (found.contains_key(TOKENIZER), has_template) {
        (true, _) => &FILES,
        (false, true) => &[TEMPLATE],
        (false, false) => &[],
    };
    files.extend(hidden.iter().map(|name| (*name, (directory.to_owned(), None))));
    files
        .extend(found.into_iter().map(|(name, bytes)| (name, (directory.to_owned(), Some(bytes)))));
    Ok(())
}
