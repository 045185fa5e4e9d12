//! Converts the tokenizer of a GGUF file to tokenizer.json and tokenizer_config.json.
//!
//! Two kinds are supported: `gpt2`, byte-level BPE with merges and a named pre-tokenizer, and
//! `llama`, sentencepiece with scores, from which merges are derived.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde_json::{Value as Json, json};

use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::interrupt;

/// Types of special tokens in `tokenizer.ggml.token_type`: unknown, control, user-defined.
const SPECIAL: [u64; 3] = [2, 3, 4];

/// The pre-tokenizer regex of Llama 3; Qwen2's splits every digit.
fn split_rule(digits: &str) -> String {
    format!(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{digits}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    )
}

fn byte_level(regex: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex})
}

/// A pre-tokenizer for byte-level BPE.
pub(crate) struct Rule {
    pub normalizer: Json,
    pub pre_tokenizer: Json,
    /// Whether a piece that is a token is used as one regardless of merges.
    pub ignore_merges: bool,
}

impl Rule {
    /// The names that llama.cpp writes.
    pub const NAMES: [&str; 4] = ["gpt-2", "smollm", "llama-bpe", "qwen2"];

    /// The rule named by `tokenizer.ggml.pre`.
    pub fn named(name: &str) -> Option<Self> {
        let split = |rule: String| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": false}, byte_level(false)]})
        };
        let (normalizer, pre_tokenizer) = match name {
            "gpt-2" | "default" => (Json::Null, byte_level(true)),
            "smollm" => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                (
                    Json::Null,
                    json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}),
                )
            }
            "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => {
                (Json::Null, split(split_rule("{1,3}")))
            }
            "qwen2" => (json!({"type": "NFC"}), split(split_rule(""))),
            _ => return None,
        };
        Some(Self {
            normalizer,
            pre_tokenizer,
            ignore_merges: matches!(name, "llama-bpe" | "llama3" | "llama-v3"),
        })
    }
}

/// The tokenizer files, or the reason why the tokenizer cannot be converted, in which case the
/// model has none.
pub(crate) fn tokenizer_files(
    metadata: &Metadata<'_>,
    file: &Path,
) -> Result<std::result::Result<BTreeMap<&'static str, Json>, String>> {
    let bad =
        |key: &str| Error::Gguf { file: file.into(), reason: format!("its {key} is corrupt") };
    let Some(kind) =
        metadata.text("tokenizer.ggml.model").filter(|kind| !["no_vocab", "none"].contains(kind))
    else {
        return Ok(Err("the file has none".into()));
    };
    let list = |key: &str| metadata.get(key).and_then(|v| v.to_vec().ok());
    let texts = |key: &str| -> Option<Vec<&str>> {
        list(key)?.iter().map(|v| v.to_string().ok().map(String::as_str)).collect()
    };
    let tokens = texts("tokenizer.ggml.tokens").ok_or_else(|| bad("tokenizer.ggml.tokens"))?;
    let types: Vec<u64> = match list("tokenizer.ggml.token_type") {
        Some(types) => types.iter().map(|v| Metadata::whole(v).unwrap_or(1)).collect(),
        None => Vec::new(),
    };
    let vocab: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let token = |key: &str| {
        let id = metadata.id(&format!("tokenizer.ggml.{key}_token_id"))?;
        Some((usize::try_from(id).ok()?, *tokens.get(usize::try_from(id).ok()?)?))
    };
    let flag = |key: &str| match metadata.get(&format!("tokenizer.ggml.{key}")) {
        Some(Value::Bool(on)) => Some(*on),
        _ => None,
    };
    let (bos, eos, unknown, padding) =
        (token("bos"), token("eos"), token("unknown"), token("padding"));
    let named: Vec<usize> =
        [bos, eos, unknown, padding].into_iter().flatten().map(|(id, _)| id).collect();
    let is_special =
        |id: usize| named.contains(&id) || types.get(id).is_some_and(|t| SPECIAL.contains(t));
    let added = |id: usize| {
        json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": named.contains(&id) || types.get(id) != Some(&4)})
    };
    let added: Vec<Json> = (0..tokens.len()).filter(|id| is_special(*id)).map(added).collect();
    let (normalizer, pre_tokenizer, decoder, merges, ignore_merges, fallback);
    match kind {
        "gpt2" => {
            let found =
                texts("tokenizer.ggml.merges").ok_or_else(|| bad("tokenizer.ggml.merges"))?;
            let pairs: Option<Vec<(&str, &str)>> =
                found.into_iter().map(|m| m.split_once(' ')).collect();
            merges = pairs.ok_or_else(|| bad("tokenizer.ggml.merges"))?;
            let rule = metadata.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
            let Some(found) = Rule::named(rule) else {
                return Ok(Err(format!("its pre-tokenizer `{rule}` is unknown")));
            };
            (normalizer, pre_tokenizer, ignore_merges) =
                (found.normalizer, found.pre_tokenizer, found.ignore_merges);
            decoder = byte_level(true);
            fallback = false;
        }
        "llama" => {
            let scores =
                list("tokenizer.ggml.scores").ok_or_else(|| bad("tokenizer.ggml.scores"))?;
            let scores: Option<Vec<f32>> = scores.iter().map(|v| v.to_f32().ok()).collect();
            let scores = scores
                .filter(|s| s.len() == tokens.len())
                .ok_or_else(|| bad("tokenizer.ggml.scores"))?;
            merges = match merges_of(&tokens, &scores, &vocab)? {
                Some(merges) => merges,
                None => {
                    return Ok(Err(
                        "its tokens have more merges than those of any real tokenizer".into()
                    ));
                }
            };
            let prefix = flag("add_space_prefix").unwrap_or(true);
            // As in transformers: no second space before a text that begins with one.
            let scheme = if prefix { "first" } else { "never" };
            normalizer = Json::Null;
            pre_tokenizer = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
            let mut steps = vec![
                json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
                json!({"type": "ByteFallback"}),
                json!({"type": "Fuse"}),
            ];
            if prefix {
                steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            }
            decoder = json!({"type": "Sequence", "decoders": steps});
            (ignore_merges, fallback) = (false, true);
        }
        other => return Ok(Err(format!("the tokenizer model `{other}` is not supported"))),
    }
    // Sentencepiece models put a bos token before a text unless the file says otherwise.
    let begins = bos.filter(|_| flag("add_bos_token").unwrap_or(kind == "llama"));
    let ends = eos.filter(|_| flag("add_eos_token").unwrap_or(false));
    let special = |(_, token): (usize, &str)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<Json> =
        begins.map(special).into_iter().chain([text]).chain(ends.map(special)).collect();
    let entry = |(id, token): (usize, &str)| {
        (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}))
    };
    let entries: BTreeMap<String, Json> = [begins, ends].into_iter().flatten().map(entry).collect();
    let post = if entries.is_empty() {
        Json::Null
    } else {
        json!({"type": "TemplateProcessing", "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": entries})
    };
    let unk = unknown.filter(|_| fallback).map(|(_, token)| token);
    let model = json!({"type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": fallback, "byte_fallback": fallback, "ignore_merges": ignore_merges,
        "vocab": vocab.iter().map(|(t, id)| ((*t).to_owned(), json!(id))).collect::<serde_json::Map<_, _>>(),
        "merges": merges});
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post, "decoder": decoder, "model": model});
    let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    for (key, token) in
        [("bos_token", bos), ("eos_token", eos), ("unk_token", unknown), ("pad_token", padding)]
    {
        if let Some((_, token)) = token {
            config[key] = token.into();
        }
    }
    if let Some(template) = metadata.text("tokenizer.chat_template") {
        config["chat_template"] = template.into();
    }
    Ok(Ok(BTreeMap::from([("tokenizer.json", tokenizer), ("tokenizer_config.json", config)])))
}

/// The merges of a sentencepiece vocabulary: every way to combine two tokens into a third, best
/// score first, as transformers derives them. `None` if there are more than in any real vocabulary.
///
/// # Errors
/// A stop.
pub(crate) fn merges_of<'a>(
    tokens: &[&'a str],
    scores: &[f32],
    vocab: &HashMap<&str, usize>,
) -> Result<Option<Vec<(&'a str, &'a str)>>> {
    /// The maximum size in bytes of a token, and of all merges; a vocabulary of 256,000 tokens has
    /// 500,000 merges.
    const TOKEN: usize = 512;
    const BYTES: usize = 64 << 20;
    let (mut merges, mut bytes) = (Vec::new(), 0);
    for (number, (token, score)) in tokens.iter().zip(scores).enumerate() {
        if number.is_multiple_of(1024) {
            interrupt::check()?;
        }
        if token.len() > TOKEN {
            return Ok(None);
        }
        let mut ways = Vec::new();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(l), Some(r)) = (vocab.get(left), vocab.get(right)) {
                ways.push((*l, *r, left, right));
            }
        }
        bytes += ways.len() * token.len();
        if bytes > BYTES {
            return Ok(None);
        }
        ways.sort_unstable();
        merges.extend(ways.into_iter().map(|(_, _, left, right)| (*score, left, right)));
    }
    let chars = |s: &str| s.chars().count();
    merges.sort_by(|(a, al, ar), (b, bl, br)| {
        b.total_cmp(a)
            .then_with(|| chars(bl).cmp(&chars(al)))
            .then_with(|| chars(br).cmp(&chars(ar)))
    });
    Ok(Some(merges.into_iter().map(|(_, left, right)| (left, right)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabularies_with_too_many_merges_are_rejected() {
        let merges = |lengths: std::ops::Range<usize>| {
            let tokens: Vec<String> = lengths.map(|n| "a".repeat(n)).collect();
            let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
            let vocab = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
            merges_of(&tokens, &vec![0.0; tokens.len()], &vocab).unwrap().map(|merges| merges.len())
        };
        assert_eq!(merges(1..5), Some(1 + 2 + 3));
        assert_eq!(merges(1..600), None);
        assert_eq!(merges(600..601), None);
    }
}
