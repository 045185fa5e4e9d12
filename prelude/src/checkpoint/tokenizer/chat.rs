//! The chat templates of a checkpoint, and the special tokens they refer to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::checkpoint::storage::Bytes;
use crate::error::{Error, Result};

/// The maximum size of a chat template in bytes.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// Chat templates and special tokens.
#[derive(Clone, Default)]
pub(crate) struct Chat {
    /// The default chat template, if any.
    pub template: Option<String>,
    /// The template for conversations with tools, if different.
    tool_use: Option<String>,
    /// The names of all templates if none is the default.
    without_default: Vec<String>,
    /// Special tokens by the names that templates use.
    pub tokens: BTreeMap<&'static str, String>,
}

impl Chat {
    /// Reads templates from the files that `file` finds, as transformers does:
    /// `chat_template.jinja` and `additional_chat_templates/`, otherwise `chat_template` of
    /// tokenizer_config.json (one, or several by name), otherwise that of chat_template.json, where
    /// processors used to store it.
    pub(crate) fn read(file: impl Fn(&str) -> Result<Option<(PathBuf, Bytes)>>) -> Result<Self> {
        const TOKENS: [&str; 7] = [
            "bos_token",
            "eos_token",
            "unk_token",
            "sep_token",
            "pad_token",
            "cls_token",
            "mask_token",
        ];
        let json = |name: &str| -> Result<(PathBuf, Value)> {
            let Some((file, bytes)) = file(name)? else { return Ok((PathBuf::new(), Value::Null)) };
            let value = serde_json::from_slice(&bytes)
                .map_err(|e| Error::Json { file: file.clone(), reason: e.to_string() })?;
            Ok((file, value))
        };
        let ((config_file, config), (_, map)) =
            (json("tokenizer_config.json")?, json("special_tokens_map.json")?);
        // A token is a string or an object with its attributes.
        let token = |name: &'static str| {
            let text = |v: &Value| v.as_str().or_else(|| v["content"].as_str()).map(str::to_owned);
            Some((name, text(&config[name]).or_else(|| text(&map[name]))?))
        };
        let tokens = TOKENS.into_iter().filter_map(token).collect();
        let mut named = BTreeMap::new();
        for (name, place) in [
            ("default", "chat_template.jinja"),
            ("default", "additional_chat_templates/default.jinja"),
            ("tool_use", "additional_chat_templates/tool_use.jinja"),
        ] {
            if let Some((file, bytes)) = file(place)? {
                if bytes.len() > MAX_TEMPLATE_BYTES {
                    let reason =
                        format!("it has {} bytes, more than any real chat template", bytes.len());
                    return Err(Error::Json { file, reason });
                }
                named.insert(name.to_owned(), String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        if named.is_empty() {
            named = templates(config_file, &config["chat_template"])?;
        }
        if named.is_empty() {
            let (file, processor) = json("chat_template.json")?;
            named = templates(file, &processor["chat_template"])?;
        }
        let (template, tool_use) = (named.remove("default"), named.remove("tool_use"));
        let without_default = match (&template, &tool_use) {
            (Some(_), _) => Vec::new(),
            (None, tool_use) => {
                tool_use.iter().map(|_| "tool_use".to_owned()).chain(named.into_keys()).collect()
            }
        };
        Ok(Self { template, tool_use, without_default, tokens })
    }

    /// The same tokens with `template` as the only template.
    pub fn with_template(&self, template: &str) -> Self {
        Self { template: Some(template.to_owned()), tokens: self.tokens.clone(), ..Self::default() }
    }

    /// The template of a conversation; `None` if the model has none.
    ///
    /// # Errors
    /// Several templates without a default.
    pub fn template(&self) -> Result<Option<&str>, String> {
        if self.without_default.is_empty() {
            Ok(self.template.as_deref())
        } else {
            Err(format!(
                "none of the templates `{}` is named `default`",
                self.without_default.join("`, `")
            ))
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

/// The templates in `chat_template` of `file`, by name: a text, `[{name, template}, ...]` or
/// `{name: template}`.
fn templates(file: PathBuf, found: &Value) -> Result<BTreeMap<String, String>> {
    let named =
        |t: &Value| Some((t["name"].as_str()?.to_owned(), t["template"].as_str()?.to_owned()));
    let read = match found {
        Value::Null => Some(BTreeMap::new()),
        Value::String(template) => Some(BTreeMap::from([("default".into(), template.clone())])),
        Value::Array(all) => all.iter().map(named).collect(),
        Value::Object(all) => {
            all.iter().map(|(name, t)| Some((name.clone(), t.as_str()?.to_owned()))).collect()
        }
        _ => None,
    };
    read.ok_or_else(|| {
        let reason =
            "its `chat_template` is neither a template nor a list of named templates".into();
        Error::Json { file, reason }
    })
}
