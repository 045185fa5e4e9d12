//! The tokenizer of a checkpoint, and how it was tuned to be talked to.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::files::Files;
use super::tokenizer_limits;
use crate::error::{Error, Result};
use crate::guard::guarded;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Runs the tokenizers crate, which panics on some damaged files, on `file`'s behalf.
pub(crate) fn tokenizing<T>(file: &Path, f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    guarded(|| f().map_err(|e| e.to_string())).map_err(|reason| Error::Tokenizer { file: file.into(), reason })
}

/// A tokenizer, and how much text it takes.
pub(crate) struct Text {
    pub tokenizer: Tokenizer,
    /// Bytes of the longest text whose tokens fit into memory.
    pub longest: usize,
}

/// Reads tokenizer.json, none of whose ids may be beyond the `rows` of the embedding.
pub(super) fn read_tokenizer(file: &Path, bytes: &[u8], rows: usize) -> Result<Text> {
    let growth = tokenizer_limits::check(bytes).map_err(|reason| Error::Tokenizer { file: file.into(), reason })?;
    let mut tokenizer = tokenizing(file, || Tokenizer::from_bytes(bytes))?;
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    if largest as usize >= rows {
        return Err(Error::TokenizerTooLarge { file: file.into(), id: largest, rows });
    }
    // Cutting and padding are this library's to do.
    tokenizer.with_padding(None);
    let _ = tokenizer.with_truncation(None);
    Ok(Text { tokenizer, longest: tokenizer_limits::longest_text(growth) })
}

/// How a model was tuned to be talked to.
pub(crate) struct Chat {
    pub template: Option<String>,
    pub bos_token: String,
    pub eos_token: String,
    pub pad_token: String,
    pub unk_token: String,
}

impl Chat {
    /// From `chat_template.jinja`, tokenizer_config.json and special_tokens_map.json.
    pub(super) fn read(files: &Files) -> Result<Self> {
        let json = |name: &str| -> Result<Value> {
            let invalid = |e: serde_json::Error| Error::Json { file: files.path().join(name), reason: e.to_string() };
            files.get(name)?.map_or(Ok(Value::Null), |bytes| serde_json::from_slice(&bytes).map_err(invalid))
        };
        let (config, map) = (json(TOKENIZER_CONFIG)?, json("special_tokens_map.json")?);
        // A token is a string, or an object that says more about it.
        let token = |name: &str| {
            let text = |v: &Value| v.as_str().or_else(|| v["content"].as_str()).map(str::to_owned);
            text(&config[name]).or_else(|| text(&map[name])).unwrap_or_default()
        };
        let template = match files.get("chat_template.jinja")? {
            Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            None => match &config["chat_template"] {
                Value::Null => None,
                Value::String(template) => Some(template.clone()),
                // Several by name, of which `default` is for talking.
                Value::Array(all) => {
                    all.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()).map(str::to_owned)
                }
                other => {
                    let reason = format!("chat_template is `{other}`, not a template");
                    return Err(Error::Json { file: files.path().join(TOKENIZER_CONFIG), reason });
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
