//! The tokenizer of a checkpoint, and how it was tuned to be talked to.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::files::Files;
use crate::error::{Error, Result};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Where processors kept their chat template.
const PROCESSOR_TEMPLATE: &str = "chat_template.json";

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

/// A chat template that is longer than this, in bytes, is none.
const TEMPLATE_BYTES: usize = 1 << 20;

/// How a model was tuned to be talked to.
#[derive(Default)]
pub(crate) struct Chat {
    /// The chat template, where there is one.
    pub template: Option<String>,
    /// The one for conversations with tools, where it is another.
    tool_use: Option<String>,
    /// The names of all templates, where none is the default.
    without_default: Vec<String>,
    /// Special tokens by the names that templates know them by.
    pub tokens: BTreeMap<&'static str, String>,
}

impl Chat {
    /// As transformers finds them: `chat_template.jinja` and `additional_chat_templates/`, else `chat_template` of
    /// tokenizer_config.json, one or several by name, else that of chat_template.json, which processors had.
    pub(super) fn read(files: &Files) -> Result<Self> {
        const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let json = |name: &str| -> Result<Value> {
            let invalid = |e: serde_json::Error| Error::Json { file: files.path().join(name), reason: e.to_string() };
            files.get(name)?.map_or(Ok(Value::Null), |bytes| serde_json::from_slice(&bytes).map_err(invalid))
        };
        let (config, map) = (json(TOKENIZER_CONFIG)?, json("special_tokens_map.json")?);
        // A token is a string, or an object that says more about it.
        let token = |name: &'static str| {
            let text = |v: &Value| v.as_str().or_else(|| v["content"].as_str()).map(str::to_owned);
            Some((name, text(&config[name]).or_else(|| text(&map[name]))?))
        };
        let tokens = TOKENS.into_iter().filter_map(token).collect();
        let mut named = BTreeMap::new();
        for (name, file) in [
            ("default", "chat_template.jinja"),
            ("default", "additional_chat_templates/default.jinja"),
            ("tool_use", "additional_chat_templates/tool_use.jinja"),
        ] {
            if let Some(bytes) = files.get(file)? {
                let reason = || format!("it has {} bytes, more than any real chat template", bytes.len());
                if bytes.len() > TEMPLATE_BYTES {
                    return Err(Error::Json { file: files.path().join(file), reason: reason() });
                }
                named.insert(name.to_owned(), String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        if named.is_empty() {
            named = templates(files, TOKENIZER_CONFIG, &config["chat_template"])?;
        }
        if named.is_empty() {
            named = templates(files, PROCESSOR_TEMPLATE, &json(PROCESSOR_TEMPLATE)?["chat_template"])?;
        }
        let (template, tool_use) = (named.remove("default"), named.remove("tool_use"));
        let without_default = match (&template, &tool_use) {
            (Some(_), _) => Vec::new(),
            (None, tool_use) => tool_use.iter().map(|_| "tool_use".to_owned()).chain(named.into_keys()).collect(),
        };
        Ok(Self { template, tool_use, without_default, tokens })
    }

    /// The template of a conversation; none where the model has none at all.
    ///
    /// # Errors
    /// Several templates of which none is the default.
    pub fn template(&self) -> Result<Option<&str>, String> {
        match self.without_default.is_empty() {
            true => Ok(self.template.as_deref()),
            false => Err(format!("none of `{}` is named `default`", self.without_default.join("`, `"))),
        }
    }

    /// The template of a conversation with tools.
    ///
    /// # Errors
    /// As for [`Chat::template`].
    pub fn tool_template(&self) -> Result<Option<&str>, String> {
        self.tool_use.as_deref().map_or_else(|| self.template(), |template| Ok(Some(template)))
    }
}

/// Templates by their names, of `chat_template` in `file`: a text, `[{name, template}, ...]` or `{name: template}`.
fn templates(files: &Files, file: &str, found: &Value) -> Result<BTreeMap<String, String>> {
    let named = |t: &Value| Some((t["name"].as_str()?.to_owned(), t["template"].as_str()?.to_owned()));
    let read = match found {
        Value::Null => Some(BTreeMap::new()),
        Value::String(template) => Some(BTreeMap::from([("default".into(), template.clone())])),
        Value::Array(all) => all.iter().map(named).collect(),
        Value::Object(all) => all.iter().map(|(name, t)| Some((name.clone(), t.as_str()?.to_owned()))).collect(),
        _ => None,
    };
    read.ok_or_else(|| {
        let reason = "its `chat_template` is not a template, nor several by name".into();
        Error::Json { file: files.path().join(file), reason }
    })
}
