//! The tokenizer and chat template that an adapter was tuned with, where they lie beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::files::{Bytes, map};
use crate::error::{Error, Result};

/// What makes a tokenizer.
const TOKENIZER: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// Files of a tokenizer and its chat template.
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

/// Files in place of the base's, with their directory; none: the base's is not to be read.
pub(in crate::checkpoint) type Beside = BTreeMap<&'static str, (PathBuf, Option<Bytes>)>;

/// Puts the files beside the adapter at `directory` before those that are there already. A tokenizer stands with
/// its own settings and template, so that it hides all of the base's; settings or a template alone hide
/// what they say.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn add(directory: &Path, files: &mut Beside) -> Result<()> {
    let mut found = BTreeMap::new();
    for name in FILES {
        match map(&directory.join(name)) {
            Ok(bytes) => drop(found.insert(name, bytes)),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let settings = found.get(SETTINGS).and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok());
    let has_template = settings.is_some_and(|settings| !settings["chat_template"].is_null());
    let hidden: &[&'static str] = match (found.contains_key(TOKENIZER), has_template) {
        (true, _) => &FILES,
        (false, true) => &[TEMPLATE],
        (false, false) => &[],
    };
    files.extend(hidden.iter().map(|name| (*name, (directory.to_owned(), None))));
    files.extend(found.into_iter().map(|(name, bytes)| (name, (directory.to_owned(), Some(bytes)))));
    Ok(())
}
