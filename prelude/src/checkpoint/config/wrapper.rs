//! Multimodal models around a text decoder: where config.json describes the decoder, and how it is
//! written back.
//!
//! transformers nests the decoder's configuration as `text_config`; transformers 4 wrote that of
//! Qwen models at the top level. For text, positions in time, height and width are equal, so the
//! rotary embedding is the plain one.

use serde_json::{Map, Value};

use super::architecture::Architecture;
use super::family::{FAMILIES, Family, NESTED};
use super::values::Config;
use crate::error::Result;

const TEXT: &str = "text_config";
const TIED: &str = "tie_word_embeddings";

/// The supported multimodal models, with the family of their text decoder if `text_config` does not
/// give it.
pub(super) const WRAPPERS: [(&str, &str); 12] = [
    ("gemma3", "gemma3_text"),
    ("mistral3", "mistral"),
    ("llava", "llama"),
    ("llava_next", "llama"),
    ("llava_onevision", "qwen2"),
    ("vipllava", "llama"),
    ("internvl", "qwen2"),
    ("idefics3", "llama"),
    ("smolvlm", "llama"),
    ("qwen2_vl", "qwen2_vl_text"),
    ("qwen2_5_vl", "qwen2_5_vl_text"),
    ("qwen3_vl", "qwen3_vl_text"),
];

/// Whether `model_type` is a supported multimodal model.
pub(crate) fn is_wrapper(model_type: &str) -> bool {
    WRAPPERS.iter().any(|(name, _)| *name == model_type)
}

/// The configuration of the decoder in `root`, whose `model_type` is `found`, and its family.
pub(super) fn decoder<'a>(root: &Config<'a>, found: &str) -> Result<(Config<'a>, &'static Family)> {
    let unknown = |found: &str| Architecture::unknown(root.file, found);
    let Some((_, usual)) = WRAPPERS.iter().find(|(name, _)| *name == found) else {
        let family = FAMILIES.iter().find(|family| family.name == found);
        return Ok((*root, family.ok_or_else(|| unknown(found))?));
    };
    let text = match root.object(TEXT)? {
        Some(map) => Config { file: root.file, map, within: Some(root.map) },
        None if found.starts_with("qwen") => *root,
        None => return Err(root.bad(TEXT, "it is missing, and nothing else describes the decoder")),
    };
    // At the top level, `model_type` belongs to the whole model.
    let named =
        text.within.and_then(|_| text.value("model_type")).and_then(Value::as_str).unwrap_or(usual);
    let named = if named == found { usual } else { named };
    let own = NESTED.iter().filter(|family| family.name == *usual);
    let family = FAMILIES.iter().chain(own).find(|family| family.name == named);
    Ok((text, family.ok_or_else(|| unknown(&format!("{found} with {named}")))?))
}

/// Writes `key` to the decoder's configuration in `config`, and to the top level if readers look
/// there too.
pub(crate) fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    let nested =
        config.get_mut(TEXT).and_then(Value::as_object_mut).filter(|text| !text.is_empty());
    match nested {
        None => drop(config.insert(key.into(), value)),
        Some(text) => {
            text.insert(key.into(), value.clone());
            if key == TIED || config.contains_key(key) {
                config.insert(key.into(), value);
            }
        }
    }
}

/// The value of `key` in the decoder's configuration: `text_config`, or else the top level.
pub(crate) fn get<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let nested = config.get(TEXT).and_then(|text| text.get(key)).filter(|value| !value.is_null());
    nested.or_else(|| config.get(key).filter(|value| !value.is_null()))
}
