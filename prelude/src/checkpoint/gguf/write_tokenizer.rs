//! Writes a tokenizer to a GGUF file: the inverse of `read_tokenizer.rs`.
//!
//! Two kinds are supported: byte-level BPE with a pre-tokenizer that llama.cpp names, and
//! sentencepiece BPE whose merges follow from scores. The result is read back and must produce the
//! same tokens for the same text.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value, VersionedMagic};
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::metadata::{ENDS, Metadata};
use super::read_tokenizer::{Rule, merges_of, tokenizer_files};
use super::write_keys::refused;
use crate::checkpoint::tokenizer::Chat;
use crate::checkpoint::tokenizer::guard_tokenizer;
use crate::error::{Error, Result};

/// Token types of llama.cpp.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Texts that both tokenizers must split identically.
const PROBES: [&str; 14] = [
    "Hello world",
    " leading and trailing ",
    "two  spaces,   three",
    "a\nb\n\nc\r\n\td",
    "1234567 3.14 007",
    "It's, we'll, I'D; they've",
    "snake_case CamelCase foo(bar)[0]!=x->y;",
    "\u{e9} e\u{301} \u{fb01} \u{212b} na\u{ef}ve",
    "日本語のテキスト、十二足す七。",
    "Привет мир αβγ עברית العربية",
    "👍🏽 🇯🇵 e=mc²",
    "...!!!???---",
    "\u{2581}underlined",
    "x",
];

/// The tokenizer to write.
pub(crate) struct TokenizerInput<'a> {
    /// The path and contents of tokenizer.json.
    pub file: &'a Path,
    pub bytes: &'a [u8],
    pub chat: &'a Chat,
    /// End-of-sequence tokens in addition to that of `chat`.
    pub ends: &'a [u32],
    /// Rows of the embedding; each needs a token.
    pub rows: usize,
}

/// Keys and values of a GGUF file.
pub(crate) type KeyValues = Vec<(String, Value)>;

/// The metadata of a tokenizer, and notes for the user.
///
/// # Errors
/// A tokenizer that cannot be represented so that it splits text identically.
pub(crate) fn tokenizer_keys(input: &TokenizerInput<'_>) -> Result<(KeyValues, Vec<String>)> {
    let json: Json =
        serde_json::from_slice(input.bytes).map_err(|e| unsupported(input, &e.to_string()))?;
    let original = guard_tokenizer(input.file, || Tokenizer::from_bytes(input.bytes))?;
    let mut writer = TokenizerWriter::new(input, &json, &original)?;
    writer.add_model(&json)?;
    writer.add_special_tokens(&json, &original)?;
    if let Some(template) = &input.chat.template {
        writer.key("chat_template", Value::String(template.clone()));
    }
    writer.check_round_trip(&original)?;
    Ok((writer.keys, writer.notes))
}

/// The metadata of a model without a tokenizer: the token ids in `config`, its config.json.
pub(crate) fn token_id_keys(config: &Json) -> Vec<(String, Value)> {
    let mut keys = vec![("tokenizer.ggml.model".to_owned(), Value::String("no_vocab".into()))];
    let ids = |key: &str| -> Vec<u32> {
        let found =
            config[key].as_array().map_or(std::slice::from_ref(&config[key]), Vec::as_slice);
        found.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
    };
    let ends = ENDS.iter().copied().zip(ids("eos_token_id"));
    let others = [("bos", "bos_token_id"), ("padding", "pad_token_id")];
    let others = others.into_iter().filter_map(|(name, key)| Some((name, *ids(key).first()?)));
    keys.extend(
        ends.chain(others)
            .map(|(name, id)| (format!("tokenizer.ggml.{name}_token_id"), Value::U32(id))),
    );
    keys
}

fn unsupported(input: &TokenizerInput<'_>, reason: &str) -> Error {
    refused(format!("`{}` {reason}", input.file.display()))
}

/// Builds the metadata of a tokenizer.
struct TokenizerWriter<'a> {
    input: &'a TokenizerInput<'a>,
    tokens: Vec<String>,
    types: Vec<i32>,
    /// The added tokens that have rows.
    added: Vec<String>,
    keys: Vec<(String, Value)>,
    notes: Vec<String>,
    is_byte_level: bool,
    /// Whether a space is put before a text.
    has_prefix: bool,
}

impl<'a> TokenizerWriter<'a> {
    fn key(&mut self, key: &str, value: Value) {
        self.keys.push((format!("tokenizer.{key}"), value));
    }

    /// Reads all tokens with their types.
    fn new(input: &'a TokenizerInput<'a>, json: &Json, original: &Tokenizer) -> Result<Self> {
        let mut tokens: Vec<Option<String>> = vec![None; input.rows];
        let mut types = vec![UNUSED; input.rows];
        let mut beyond = 0;
        for (token, id) in original.get_vocab(false) {
            match tokens.get_mut(id as usize) {
                Some(place) => {
                    types[id as usize] = if is_byte(&token) { BYTE } else { NORMAL };
                    *place = Some(token);
                }
                None => beyond += 1,
            }
        }
        let mut added = Vec::new();
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let (Some(id), Some(content)) = (token["id"].as_u64(), token["content"].as_str())
            else {
                continue;
            };
            let Some(place) = usize::try_from(id).ok().and_then(|id| tokens.get_mut(id)) else {
                beyond += 1;
                continue;
            };
            types[id as usize] = if token["special"] == true { CONTROL } else { USER_DEFINED };
            *place = Some(content.to_owned());
            added.push(content.to_owned());
        }
        let tokens: Vec<String> = tokens
            .into_iter()
            .enumerate()
            .map(|(id, token)| token.unwrap_or_else(|| format!("[PAD{id}]")))
            .collect();
        let notes = (beyond > 0)
            .then(|| format!("{beyond} tokens without a row in the embedding were left out"));
        let notes = notes.into_iter().collect();
        Ok(Self {
            input,
            tokens,
            types,
            added,
            keys: Vec::new(),
            notes,
            is_byte_level: false,
            has_prefix: false,
        })
    }

    /// Adds the model with its tokens and merges or scores.
    fn add_model(&mut self, json: &Json) -> Result<()> {
        let model = &json["model"];
        if model["type"].as_str().is_some_and(|kind| kind != "BPE") || !model["merges"].is_array() {
            let kind = model["type"].as_str().unwrap_or("unnamed").to_owned();
            return Err(unsupported(
                self.input,
                &format!("is of the type `{kind}`; only BPE is supported"),
            ));
        }
        let merges = merges(&model["merges"])
            .ok_or_else(|| unsupported(self.input, "has invalid merges"))?;
        self.is_byte_level = has_byte_level(&json["pre_tokenizer"]);
        let unknown = model["unk_token"]
            .as_str()
            .and_then(|token| self.tokens.iter().position(|t| t == token));
        if let Some(id) = unknown {
            self.types[id] = UNKNOWN;
        }
        let scores = if self.is_byte_level {
            let ignores = model["ignore_merges"] == true;
            let rule = Rule::NAMES.into_iter().find(|name| {
                let fits = |rule: Rule| {
                    is_equivalent(&rule.normalizer, &json["normalizer"])
                        && is_equivalent(&rule.pre_tokenizer, &json["pre_tokenizer"])
                        && rule.ignore_merges == ignores
                };
                Rule::named(name).is_some_and(fits)
            });
            let rule = rule.ok_or_else(|| {
                let known = Rule::NAMES.join(", ");
                unsupported(
                    self.input,
                    &format!(
                        "uses a pre-tokenizer that llama.cpp does not have (supported: {known})"
                    ),
                )
            })?;
            self.key("ggml.model", Value::String("gpt2".into()));
            self.key("ggml.pre", Value::String(rule.into()));
            None
        } else if model["byte_fallback"] == true {
            let prefix = adds_prefix(json);
            let prefix = prefix.ok_or_else(|| {
                unsupported(self.input, "splits text differently from sentencepiece")
            })?;
            self.key("ggml.model", Value::String("llama".into()));
            self.key("ggml.pre", Value::String("default".into()));
            self.key("ggml.add_space_prefix", Value::Bool(prefix));
            self.has_prefix = prefix;
            if prefix {
                self.notes.push(
                    "llama.cpp puts a space before every text, transformers only before a text that does not begin with one"
                        .into(),
                );
            }
            Some(self.scores(&merges)?)
        } else {
            return Err(unsupported(self.input, "is neither byte-level BPE nor sentencepiece BPE"));
        };
        let texts =
            |texts: &[String]| Value::Array(texts.iter().cloned().map(Value::String).collect());
        let tokens = texts(&self.tokens);
        self.key("ggml.tokens", tokens);
        match scores {
            Some(scores) => {
                self.key("ggml.scores", Value::Array(scores.into_iter().map(Value::F32).collect()))
            }
            None => {
                let merges: Vec<String> =
                    merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
                self.key("ggml.merges", texts(&merges));
            }
        }
        let types = Value::Array(self.types.iter().map(|kind| Value::I32(*kind)).collect());
        self.key("ggml.token_type", types);
        if let Some(id) = unknown {
            self.key("ggml.unknown_token_id", Value::U32(id as u32));
        }
        Ok(())
    }

    /// Scores that imply the merges: a token that is merged earlier has a higher score.
    fn scores(&self, merges: &[(String, String)]) -> Result<Vec<f32>> {
        let vocab: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        let mut order: Vec<usize> = Vec::new();
        for (left, right) in merges {
            let id = vocab.get(format!("{left}{right}").as_str());
            let id = *id.ok_or_else(|| {
                unsupported(
                    self.input,
                    &format!("merges `{left}` and `{right}` to something that is not a token"),
                )
            })?;
            if order.last() != Some(&id) {
                order.push(id);
            }
        }
        // Single characters rank after all merges; tokens that are not text have no score.
        let mut scores: Vec<f32> = self
            .types
            .iter()
            .map(|kind| if *kind == NORMAL { -(order.len() as f32) } else { 0.0 })
            .collect();
        for (rank, id) in order.iter().enumerate() {
            scores[*id] = -(rank as f32);
        }
        let tokens: Vec<&str> = self.tokens.iter().map(String::as_str).collect();
        let back = merges_of(&tokens, &scores, &vocab)?.unwrap_or_default();
        if back.len() == merges.len()
            && back.iter().zip(merges).all(|((a, b), (left, right))| a == left && b == right)
        {
            Ok(scores)
        } else {
            Err(unsupported(
                self.input,
                "has merges that cannot be expressed as sentencepiece scores",
            ))
        }
    }

    /// Adds special tokens, and which of them are put around a text.
    fn add_special_tokens(&mut self, json: &Json, original: &Tokenizer) -> Result<()> {
        let id =
            |token: &str| original.token_to_id(token).filter(|id| (*id as usize) < self.input.rows);
        let (before, after) = surrounding_tokens(&json["post_processor"]).ok_or_else(|| {
            unsupported(self.input, "adds special tokens differently from llama.cpp")
        })?;
        let chat = self.input.chat;
        let one = |around: &[String], default: &str| -> Result<Option<u32>> {
            match around {
                [] => Ok(id(default)),
                [token] => id(token).map(Some).ok_or_else(|| {
                    unsupported(
                        self.input,
                        &format!("adds the token `{token}`, which has no row in the embedding"),
                    )
                }),
                _ => Err(unsupported(self.input, "adds several special tokens")),
            }
        };
        let token = |name: &str| chat.tokens.get(name).cloned().unwrap_or_default();
        let (bos, eos) = (one(&before, &token("bos_token"))?, one(&after, &token("eos_token"))?);
        let mut ends: Vec<u32> = Vec::new();
        for end in
            eos.into_iter().chain(id(&token("eos_token"))).chain(self.input.ends.iter().copied())
        {
            if !ends.contains(&end) && (end as usize) < self.input.rows {
                ends.push(end);
            }
        }
        let named =
            [("ggml.bos_token_id", bos), ("ggml.padding_token_id", id(&token("pad_token")))];
        let unknown = self
            .keys
            .iter()
            .all(|(key, _)| key != "tokenizer.ggml.unknown_token_id")
            .then(|| id(&token("unk_token")))
            .flatten();
        for (key, id) in named.into_iter().chain([("ggml.unknown_token_id", unknown)]) {
            if let Some(id) = id {
                self.key(key, Value::U32(id));
            }
        }
        for (name, end) in ENDS.iter().zip(&ends) {
            self.key(&format!("ggml.{name}_token_id"), Value::U32(*end));
        }
        if ends.len() > ENDS.len() {
            self.notes
                .push(format!("{} end-of-sequence tokens were left out", ends.len() - ENDS.len()));
        }
        self.key("ggml.add_bos_token", Value::Bool(!before.is_empty()));
        self.key("ggml.add_eos_token", Value::Bool(!after.is_empty()));
        Ok(())
    }

    /// Returns an error if the written tokenizer, read back, splits a text differently from
    /// `original`.
    fn check_round_trip(&self, original: &Tokenizer) -> Result<()> {
        let metadata = self.keys.iter().cloned().collect();
        let content = Content {
            magic: VersionedMagic::GgufV3,
            metadata,
            tensor_infos: HashMap::new(),
            tensor_data_offset: 0,
        };
        let files = tokenizer_files(&Metadata::new(&content, "llama"), self.input.file)?;
        let files = files
            .map_err(|reason| unsupported(self.input, &format!("cannot be read back: {reason}")))?;
        let text = files.get("tokenizer.json").map(Json::to_string).unwrap_or_default();
        let back = guard_tokenizer(self.input.file, || Tokenizer::from_bytes(text.as_bytes()))?;
        let mut probes: Vec<String> = PROBES.iter().map(|probe| (*probe).to_owned()).collect();
        // Sentencepiece implementations differ in whether a space is put after a special token.
        if self.is_byte_level {
            probes.extend(
                self.added.iter().take(512).map(|token| format!("a {token} b\n{token}c{token}")),
            )
        } else {
            probes.extend(self.added.iter().take(512).cloned())
        }
        for probe in &probes {
            // Implementations differ for texts that begin with a space.
            let probe =
                if self.has_prefix { probe.trim_start_matches([' ', '\u{2581}']) } else { probe };
            let ids = |tokenizer: &Tokenizer| {
                guard_tokenizer(self.input.file, || {
                    Ok(tokenizer.encode_fast(probe, true)?.get_ids().to_vec())
                })
            };
            let (expected, found) = (ids(original)?, ids(&back)?);
            let has_rows = expected.iter().all(|id| (*id as usize) < self.input.rows);
            if has_rows && expected != found {
                return Err(unsupported(
                    self.input,
                    &format!(
                        "splits `{}` differently from what would be written",
                        probe.escape_debug()
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Whether a token stands for a byte, such as `<0x0A>`.
fn is_byte(token: &str) -> bool {
    token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

/// Merges, stored as pairs or as texts separated by a space.
fn merges(json: &Json) -> Option<Vec<(String, String)>> {
    let one = |merge: &Json| match merge {
        Json::String(text) => {
            text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()))
        }
        Json::Array(pair) => match pair.as_slice() {
            [Json::String(left), Json::String(right)] => Some((left.clone(), right.clone())),
            _ => None,
        },
        _ => None,
    };
    json.as_array()?.iter().map(one).collect()
}

fn has_byte_level(pre_tokenizer: &Json) -> bool {
    let is = |part: &Json| part["type"] == "ByteLevel";
    is(pre_tokenizer)
        || pre_tokenizer["pretokenizers"].as_array().is_some_and(|parts| parts.iter().any(is))
}

/// Whether two tokenizer components do the same; missing keys have default values.
fn is_equivalent(a: &Json, b: &Json) -> bool {
    fn plain(json: &Json) -> Json {
        match json {
            Json::Object(map) => {
                let parts = map
                    .get("pretokenizers")
                    .or_else(|| map.get("normalizers"))
                    .and_then(Json::as_array);
                if let Some([only]) = parts.map(Vec::as_slice) {
                    return plain(only);
                }
                // Offsets do not affect tokens.
                let defaults = BTreeMap::from([
                    ("use_regex", true),
                    ("invert", false),
                    ("individual_digits", false),
                ]);
                let explicit = map.iter().filter(|(key, value)| {
                    let default = defaults
                        .get(key.as_str())
                        .is_some_and(|default| **value == Json::Bool(*default));
                    *key != "trim_offsets" && !default
                });
                Json::Object(explicit.map(|(key, value)| (key.clone(), plain(value))).collect())
            }
            Json::Array(items) => Json::Array(items.iter().map(plain).collect()),
            other => other.clone(),
        }
    }
    plain(a) == plain(b)
}

/// Whether a space is put before a text, as sentencepiece does; `None` if text is split in another
/// way.
fn adds_prefix(json: &Json) -> Option<bool> {
    let normalizers = match &json["normalizer"] {
        Json::Null => Vec::new(),
        Json::Object(map) if map.get("type")? == "Sequence" => {
            map.get("normalizers")?.as_array()?.clone()
        }
        one => vec![one.clone()],
    };
    let blank = |value: &Json| value["String"] == " ";
    let (mut prefix, mut replaces) = (false, false);
    for normalizer in &normalizers {
        match normalizer["type"].as_str()? {
            "Prepend" if normalizer["prepend"] == "\u{2581}" => prefix = true,
            "Replace" if blank(&normalizer["pattern"]) && normalizer["content"] == "\u{2581}" => {
                replaces = true
            }
            _ => return None,
        }
    }
    match (json["pre_tokenizer"]["type"].as_str(), replaces) {
        (None, true) => Some(prefix),
        // No spaces are left after they were replaced.
        (Some("Split"), true) if blank(&json["pre_tokenizer"]["pattern"]) => Some(prefix),
        (Some("Metaspace"), false) if !prefix && json["pre_tokenizer"]["split"] == false => {
            Some(json["pre_tokenizer"]["prepend_scheme"] != "never")
        }
        _ => None,
    }
}

/// The tokens put before and after a text; `None` for anything else.
fn surrounding_tokens(post_processor: &Json) -> Option<(Vec<String>, Vec<String>)> {
    let parts = match post_processor["type"].as_str() {
        None => Vec::new(),
        Some("Sequence") => post_processor["processors"].as_array()?.iter().collect(),
        Some(_) => vec![post_processor],
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for part in parts {
        match part["type"].as_str()? {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                let single = part["single"].as_array()?;
                let text = single.iter().position(|item| item.get("Sequence").is_some())?;
                let token = |item: &Json| item["SpecialToken"]["id"].as_str().map(str::to_owned);
                before.extend(single[..text].iter().map(token).collect::<Option<Vec<_>>>()?);
                after.extend(single[text + 1..].iter().map(token).collect::<Option<Vec<_>>>()?);
            }
            _ => return None,
        }
    }
    Some((before, after))
}
