//! The tokenizer of a checkpoint, and its chat templates.

mod chat;
mod limits;

pub(crate) use chat::Chat;

use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::guard::guarded;

/// Runs the tokenizers crate, which panics on some corrupt files; errors name `file`.
pub(crate) fn guard_tokenizer<T>(
    file: &Path,
    f: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T> {
    guarded(|| f().map_err(|e| e.to_string()))
        .map_err(|reason| Error::Tokenizer { file: file.into(), reason })
}

/// A tokenizer with its limit.
pub(crate) struct BoundedTokenizer {
    pub tokenizer: Tokenizer,
    /// The maximum size in bytes of a text whose tokens fit into memory.
    pub longest: usize,
}

/// Reads tokenizer.json.
pub(crate) fn read_tokenizer(file: &Path, bytes: &[u8]) -> Result<BoundedTokenizer> {
    let growth =
        limits::check(bytes).map_err(|reason| Error::Tokenizer { file: file.into(), reason })?;
    let mut tokenizer = guard_tokenizer(file, || Tokenizer::from_bytes(bytes))?;
    // This library truncates and pads itself.
    tokenizer.with_padding(None);
    let _ = tokenizer.with_truncation(None);
    Ok(BoundedTokenizer { tokenizer, longest: limits::longest_text(growth) })
}

/// A note about tokens beyond the `rows` of the embedding, as in `CodeLlama-Python`.
pub(crate) fn beyond(tokenizer: &Tokenizer, rows: usize) -> Option<String> {
    let vocabulary = tokenizer.get_vocab(true);
    let mut beyond: Vec<(u32, &String)> = vocabulary
        .iter()
        .map(|(token, id)| (*id, token))
        .filter(|(id, _)| *id as usize >= rows)
        .collect();
    beyond.sort_unstable();
    let (id, token) = beyond.first()?;
    Some(format!(
        "the embedding has `{rows}` rows, but the tokenizer has {} tokens beyond them, starting with `{token}` ({id}): text with these tokens cannot be used",
        beyond.len()
    ))
}
