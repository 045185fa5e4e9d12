//! The tokenizer and chat template stored with an adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::storage::{
    Bytes, TEMPLATE, TOKENIZER, TOKENIZER_FILES, TOKENIZER_SETTINGS, map,
};
use crate::error::{Error, Result};

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
    for name in TOKENIZER_FILES {
        match map(&directory.join(name)) {
            Ok(bytes) => drop(found.insert(name, bytes)),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let settings = found
        .get(TOKENIZER_SETTINGS)
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok());
    let has_template = settings.is_some_and(|settings| !settings["chat_template"].is_null());
    let hidden: &[&'static str] = match (found.contains_key(TOKENIZER), has_template) {
        (true, _) => &TOKENIZER_FILES,
        (false, true) => &[TEMPLATE],
        (false, false) => &[],
    };
    files.extend(hidden.iter().map(|name| (*name, (directory.to_owned(), None))));
    files
        .extend(found.into_iter().map(|(name, bytes)| (name, (directory.to_owned(), Some(bytes)))));
    Ok(())
}
