//! The tokenizer of a checkpoint.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Runs the tokenizers crate, which panics on some damaged files, on `file`'s behalf.
pub(crate) fn tokenizing<T>(file: &Path, f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let bad = |reason: String| Error::Tokenizer { file: file.into(), reason };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| bad(e.to_string())),
        Err(_) => Err(bad("it contradicts itself".into())),
    }
}

/// Reads tokenizer.json, none of whose ids may be beyond the `rows` of the embedding.
pub(super) fn read_tokenizer(file: &Path, bytes: &[u8], rows: usize) -> Result<Tokenizer> {
    let mut tokenizer = tokenizing(file, || Tokenizer::from_bytes(bytes))?;
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    if largest as usize >= rows {
        return Err(Error::TokenizerTooLarge { file: file.into(), id: largest, rows });
    }
    // Cutting and padding are this library's to do.
    tokenizer.with_padding(None);
    let _ = tokenizer.with_truncation(None);
    Ok(tokenizer)
}
