//! The tokenizer of a checkpoint, and how it was tuned to be talked to.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::files::Bytes;
use crate::error::{Error, Result};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Runs the tokenizers crate, which panics on some damaged files, on `file`'s behalf.
pub(crate) fn tokenizing<T>(file: &Path, f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let bad = |reason: String| Error::Tokenizer { file: file.into(), reason };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| bad(e.to_string())),
        Err(_) => Err(bad("it contradicts itself".into())),
    }
}

/// Reads tokenizer.json.
pub(super) fn read_tokenizer(file: &Path, bytes: &[u8]) -> Result<Tokenizer> {
    let mut tokenizer = tokenizing(file, || Tokenizer::from_bytes(bytes))?;
    // Cutting and padding are this library's to do.
    tokenizer.with_padding(None);
    let _ = tokenizer.with_truncation(None);
    Ok(tokenizer)
}

/// What is to be said of a tokenizer that has ids beyond the `rows` of the embedding, `CodeLlama-Python`'s say.
pub(super) fn beyond(tokenizer: &Tokenizer, rows: usize) -> Option<String> {
    let vocabulary = tokenizer.get_vocab(true);
    let mut beyond: Vec<(u32, &String)> =
        vocabulary.iter().map(|(token, id)| (*id, token)).filter(|(id, _)| *id as usize >= rows).collect();
    beyond.sort_unstable();
    let (id, token) = beyond.first()?;
    Some(format!(
        "the embedding has `{rows}` rows, the tokenizer has {} tokens beyond them, the first of them `{token}` ({id}): text with them cannot be used",
        beyond.len()
    ))
}

/// How a model was tuned to be talked to.
#[derive(Clone)]
pub(crate) struct Chat {
    pub template: Option<String>,
    pub bos_token: String,
    pub eos_token: String,
    pub pad_token: String,
    pub unk_token: String,
}

impl Chat {
    /// From `chat_template.jinja`, tokenizer_config.json and special_tokens_map.json, which `file` finds.
    pub(super) fn read(file: impl Fn(&str) -> Result<Option<(PathBuf, Bytes)>>) -> Result<Self> {
        let json = |name: &str| -> Result<(PathBuf, Value)> {
            let Some((file, bytes)) = file(name)? else { return Ok((PathBuf::new(), Value::Null)) };
            let value = serde_json::from_slice(&bytes).map_err(|e| Error::Json { file: file.clone(), reason: e.to_string() })?;
            Ok((file, value))
        };
        let ((config_file, config), (_, map)) = (json(TOKENIZER_CONFIG)?, json("special_tokens_map.json")?);
        // A token is a string, or an object that says more about it.
        let token = |name: &str| {
            let text = |v: &Value| v.as_str().or_else(|| v["content"].as_str()).map(str::to_owned);
            text(&config[name]).or_else(|| text(&map[name])).unwrap_or_default()
        };
        let template = match file("chat_template.jinja")? {
            Some((_, bytes)) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            None => match &config["chat_template"] {
                Value::Null => None,
                Value::String(template) => Some(template.clone()),
                // Several by name, of which `default` is for talking.
                Value::Array(all) => {
                    all.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()).map(str::to_owned)
                }
                other => {
                    let reason = format!("chat_template is `{other}`, not a template");
                    return Err(Error::Json { file: config_file, reason });
                }
            },
        };
        Ok(Self {
            template,
            bos_token: token("bos_token"),
            eos_token: token("eos_token"),
            pad_token: token("pad_token"),
            unk_token: token("unk_token"),
        })
    }
}
