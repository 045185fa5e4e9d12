//! `chat_template` of a recipe: `auto`, the name of a template, or the template itself.

use serde_json::{Map, Value};

use super::location::Location;
use crate::checkpoint::Source;
use crate::error::Result;

/// The chat template of a merge.
pub(super) enum Template {
    /// The most common template of the models.
    Auto,
    /// This template (Jinja).
    Text(String),
}

/// mergekit's named templates, in forms that render the same text.
const NAMED: [(&str, &str); 5] = [
    ("alpaca", include_str!("alpaca.jinja")),
    ("chatml", include_str!("chatml.jinja")),
    ("exaone", include_str!("exaone.jinja")),
    ("llama3", include_str!("llama3.jinja")),
    ("mistral", include_str!("mistral.jinja")),
];

impl Template {
    /// Reads the template of a recipe.
    pub fn read(at: &Location<'_>, map: &Map<String, Value>) -> Result<Option<Self>> {
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
                Err(at.bad(
                    KEY,
                    format!("`{text}` is neither a template nor the name of one"),
                    hint,
                ))
            }
        }
    }

    /// Returns the template for a merge of `models`; `None` if no model has one.
    pub fn of<'a>(&self, models: impl Iterator<Item = &'a Source>) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Auto => {
                let all: Vec<&str> = models
                    .filter_map(Source::chat_template)
                    .map(str::trim)
                    .filter(|t| !t.is_empty())
                    .collect();
                let count = |template: &str| all.iter().filter(|other| **other == template).count();
                let most = all.iter().map(|template| count(template)).max()?;
                // Ties go to the first.
                all.iter()
                    .find(|template| count(template) == most)
                    .map(|template| (*template).to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Conversation, message, render};

    /// Expected texts: what transformers renders with mergekit's templates.
    #[test]
    fn templates_render_like_mergekits() {
        let llama3 = "<s><|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>\n<|start_header_id|>user<|end_header_id|>\n\nhi\
                      <|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\nyo<|eot_id|>\n<|start_header_id|>user\
                      <|end_header_id|>\n\nq<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\n";
        let chatml = "<|im_start|>system\n s <|im_end|>\n<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n\
                      <|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n";
        let alpaca =
            "s\n\n### Instruction:\nhi\n\n### Response:\nyo\n\n### Instruction:\nq### Response:\n";
        let exaone = [
            "    [|system|] s \n        [|endofturn|]\n\n    [|user|] hi \n        \n\n    [|assistant|]yo\n        [|endofturn|]\n\n",
            "    [|user|]q\n        \n\n    [|assistant|]\n",
        ]
        .concat();
        let mistral = "<s> [INST]  s \n\n hi  [/INST] yo</s> [INST] q [/INST]";
        let expected = [alpaca, chatml, exaone.as_str(), llama3, mistral];
        let talk = [
            ("system", " s "),
            ("user", " hi "),
            ("assistant", "yo"),
            ("user", "q"),
            ("assistant", "z"),
        ];
        let messages = talk.iter().map(|(role, content)| message(role, content)).collect();
        let talk = Conversation { messages, prompt: 4, tools: None };
        let source = Source::open("builtin:math").unwrap().with_special_tokens("<s>", "</s>");
        for ((name, template), expected) in NAMED.iter().zip(expected) {
            let source = source.with_chat_template(template).unwrap();
            let exchange = render(&source, &[&talk]).unwrap().pop().unwrap().unwrap();
            assert_eq!(exchange.prompt, expected, "{name}");
        }
    }
}
