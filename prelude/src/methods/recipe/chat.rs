//! `chat_template` of a recipe: `auto`, the name of a template, or one itself.

use serde_json::{Map, Value};

use super::at::At;
use crate::checkpoint::Source;
use crate::error::Result;

/// What a merge is to be talked to with.
pub(super) enum Template {
    /// What most of the models have.
    Auto,
    /// This (Jinja).
    Text(String),
}

/// Templates by mergekit's names, which render what mergekit's do.
const NAMED: [(&str, &str); 5] = [
    ("alpaca", include_str!("chat/alpaca.jinja")),
    ("chatml", include_str!("chat/chatml.jinja")),
    ("exaone", include_str!("chat/exaone.jinja")),
    ("llama3", include_str!("chat/llama3.jinja")),
    ("mistral", include_str!("chat/mistral.jinja")),
];

impl Template {
    /// What a recipe says.
    pub fn read(at: &At<'_>, map: &Map<String, Value>) -> Result<Option<Self>> {
        const KEY: &str = "chat_template";
        let Some(text) = at.text(map, KEY)? else { return Ok(None) };
        if text == "auto" {
            return Ok(Some(Self::Auto));
        }
        let named = NAMED.iter().find(|(name, _)| *name == text);
        match named {
            Some((_, template)) => Ok(Some(Self::Text((*template).to_owned()))),
            None if text.len() >= 20 && text.contains('{') => Ok(Some(Self::Text(text))),
            None => {
                let names = NAMED.map(|(name, _)| name).join(", ");
                let hint = format!("write auto, one of {names}, or a template in Jinja");
                Err(at.bad(KEY, format!("`{text}` is no template and not the name of one"), hint))
            }
        }
    }

    /// The template for a merge of `models`; none where none of them has one.
    pub fn of<'a>(&self, models: impl Iterator<Item = &'a Source>) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Auto => {
                let all: Vec<&str> = models.filter_map(Source::chat_template).map(str::trim).filter(|t| !t.is_empty()).collect();
                let count = |template: &str| all.iter().filter(|other| **other == template).count();
                let most = all.iter().map(|template| count(template)).max()?;
                // Of equally many, the first.
                all.iter().find(|template| count(template) == most).map(|template| (*template).to_owned())
            }
        }
    }
}
