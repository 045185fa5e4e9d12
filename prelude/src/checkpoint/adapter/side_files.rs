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
/// Settings or a template alone hide only what they replace. Returns a note if tokens are added
/// without a tokenizer.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn add(directory: &Path, files: &mut FileOverrides) -> Result<Option<String>> {
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
    let has = |key: &str| settings.as_ref().is_some_and(|settings| !settings[key].is_null());
    let has_template = has("chat_template");
    let adds_tokens = found.contains_key("added_tokens.json") || has("added_tokens_decoder");
    let note = (adds_tokens && !found.contains_key(TOKENIZER)).then(|| {
        format!(
            "`{}` lists added tokens but has no tokenizer.json: the base's tokenizer is used",
            directory.display()
        )
    });
    let hidden: &[&'static str] = match (found.contains_key(TOKENIZER), has_template) {
        (true, _) => &TOKENIZER_FILES,
        (false, true) => &[TEMPLATE],
        (false, false) => &[],
    };
    files.extend(hidden.iter().map(|name| (*name, (directory.to_owned(), None))));
    files
        .extend(found.into_iter().map(|(name, bytes)| (name, (directory.to_owned(), Some(bytes)))));
    Ok(note)
}
