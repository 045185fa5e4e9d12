//! Checks the resources that a tokenizer.json demands before the tokenizers crate reads it, since
//! the crate has no limits.
//!
//! A text of n bytes grows to at most `growth * n` bytes, where `growth` is the product of the
//! growth of each step per byte: the length of a replacement over that of its pattern, the longest
//! entry of a charsmap, 2 for byte-level text. Real tokenizers have a growth of 1 to about 130, few
//! steps, and patterns of a few hundred characters.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The maximum size of the file in bytes; real ones have up to 35 MB.
const FILE: usize = 128 << 20;

/// The maximum number of steps of one kind, including nested ones, and their nesting depth.
const STEPS: usize = 32;
const DEPTH: usize = 4;

/// The maximum growth of a text over all steps.
const GROWTH: usize = 4096;

/// The maximum size in bytes of a text after all steps; the crate uses about thirty times as much
/// memory.
const TEXT: usize = 1 << 24;

/// The maximum size in bytes of a regular expression, and the maximum product of its repetition
/// counts.
const PATTERN: usize = 1 << 13;
const REPEATED: usize = 1_000_000;

/// The maximum size in bytes of a token, of all added tokens, and of an affix.
const TOKEN: usize = 1 << 13;
const ADDED: usize = 8 << 20;
const AFFIX: usize = 64;

/// The maximum size in bytes of all added tokens after the normalizer.
const NORMALIZED: usize = 64 << 20;

/// The maximum growth in decoding.
const DECODED: usize = 16;

/// Limits of a unigram model: bytes per token, and distinct prefixes of all tokens. Real ones have
/// about 16 letters and a million prefixes.
const PIECE: usize = 512;
const PREFIXES: usize = 2_000_000;

/// The maximum number of pieces and tokens around a text.
const PIECES: usize = 64;

/// The maximum number of characters in a word that is looked up piece by piece, which takes
/// quadratic time.
const WORD: u64 = 1000;

/// The parts of a file that are checked.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(default, borrow)]
    added_tokens: Option<Vec<Added<'a>>>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(default, borrow)]
    continuing_subword_prefix: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    end_of_word_suffix: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    unk_token: Option<Cow<'a, str>>,
    max_input_chars_per_word: Option<u64>,
    #[serde(default)]
    vocab: Tokens,
}

/// The tokens of a vocabulary.
#[derive(Default)]
struct Tokens {
    /// Bytes of the longest token.
    longest: usize,
    /// The number of distinct prefixes, for a list.
    prefixes: usize,
    /// Whether it is a list, as in a unigram model.
    is_list: bool,
}

/// The maximum size in bytes of a text with the given growth.
pub(crate) fn longest_text(growth: usize) -> usize {
    TEXT / growth.max(1)
}

/// Returns the growth of a tokenizer with the file contents `bytes`.
///
/// # Errors
/// A file that is not a tokenizer, or that demands more than any real one.
pub(crate) fn check(bytes: &[u8]) -> Result<usize, String> {
    check_limit("bytes", bytes.len(), FILE)?;
    let outline: Outline<'_> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let Model {
        continuing_subword_prefix,
        end_of_word_suffix,
        unk_token,
        max_input_chars_per_word,
        vocab,
    } = &outline.model;
    let added = outline.added_tokens.unwrap_or_default();
    let (longest, all) = added
        .iter()
        .fold((0, 0), |(longest, all), t| (t.content.len().max(longest), all + t.content.len()));
    let token = vocab.longest.max(longest);
    check_limit("bytes in a token", token, TOKEN)?;
    check_limit("bytes in added tokens", all, ADDED)?;
    for affix in [continuing_subword_prefix, end_of_word_suffix, unk_token].into_iter().flatten() {
        check_limit("bytes in an affix", affix.len(), AFFIX)?;
    }
    check_limit(
        "characters in a word",
        max_input_chars_per_word.unwrap_or(0) as usize,
        WORD as usize,
    )?;
    let normalized = step_growth(&outline.normalizer, "normalizers", normalizer)?;
    // Added tokens are normalized when the file is read.
    check_limit(
        "bytes in added tokens after its normalizers",
        all.saturating_mul(normalized),
        NORMALIZED,
    )?;
    check_limit(
        "bytes in an added token after its normalizers",
        longest.saturating_mul(normalized),
        NORMALIZED >> 6,
    )?;
    let before = normalized.saturating_mul(step_growth(
        &outline.pre_tokenizer,
        "pretokenizers",
        pre_tokenizer,
    )?);
    let after = step_growth(&outline.post_processor, "processors", post_processor)?;
    let growth = before.saturating_mul(after);
    check_limit("times the text size after its steps", growth, GROWTH)?;
    let decoded = step_growth(&outline.decoder, "decoders", decoder)?;
    check_limit("times the text size in decoding", decoded, DECODED)?;
    check_limit(
        "bytes per token in decoding",
        decoded.saturating_mul(token),
        DECODED * (TOKEN / 2),
    )?;
    if !vocab.is_list {
        return Ok(growth);
    }
    // Each prefix of a token is a map in memory, and at each letter all matching ones are copied.
    check_limit("bytes in a token", vocab.longest, PIECE)?;
    check_limit("token prefixes", vocab.prefixes, PREFIXES)?;
    Ok(growth.saturating_mul((vocab.longest / 16).max(1)))
}

fn check_limit(what: &str, found: usize, most: usize) -> Result<(), String> {
    if found > most {
        Err(format!(
            "it demands {found} {what}, more than the {most} that any real tokenizer needs"
        ))
    } else {
        Ok(())
    }
}

/// The growth of a step, or of a sequence of steps under the key `list`; `one` returns the growth
/// of a single step.
fn step_growth(
    step: &Value,
    list: &str,
    one: fn(&str, &Value) -> Result<usize, String>,
) -> Result<usize, String> {
    let (mut growth, mut steps, mut open) = (1usize, 0, vec![(step, 0)]);
    while let Some((step, depth)) = open.pop() {
        if step.is_null() {
            continue;
        }
        let kind =
            step["type"].as_str().ok_or_else(|| format!("a step of its {list} has no type"))?;
        if kind == "Sequence" {
            let inner = step[list].as_array().ok_or_else(|| format!("a sequence has no {list}"))?;
            check_limit("levels of sequences", depth + 1, DEPTH)?;
            open.extend(inner.iter().map(|step| (step, depth + 1)));
        } else {
            growth = growth.saturating_mul(one(kind, step)?);
        }
        steps += 1;
        check_limit(list, steps, STEPS)?;
    }
    Ok(growth)
}

fn normalizer(kind: &str, step: &Value) -> Result<usize, String> {
    Ok(match kind {
        "Replace" => replacement(step)?,
        "Prepend" => 1 + text(step, "prepend").len().div_ceil(2),
        "Precompiled" => charsmap(text(step, "precompiled_charsmap"))?,
        // The maximum expansion of one byte in the Unicode standard.
        "NFKC" | "NFKD" => 11,
        "NFC" | "NFD" => 3,
        "Bert" | "BertNormalizer" => 4,
        "Lowercase" | "ByteLevel" => 2,
        _ => 1,
    })
}

fn pre_tokenizer(kind: &str, step: &Value) -> Result<usize, String> {
    Ok(match kind {
        "ByteLevel" => 2,
        // A space becomes the replacement, and one is put before the first word.
        "Metaspace" => 4.max(text(step, "replacement").len()),
        "FixedLength" if step["length"] == 0 => {
            return Err("it splits text into pieces of length 0".into());
        }
        "Split" => {
            pattern(step)?;
            1
        }
        _ => 1,
    })
}

fn post_processor(kind: &str, step: &Value) -> Result<usize, String> {
    if kind != "TemplateProcessing" {
        return Ok(1);
    }
    let count = |value: &Value| value.as_array().map_or(0, Vec::len);
    let ids = step["special_tokens"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_, token)| count(&token["ids"]))
        .sum();
    for pieces in [count(&step["single"]), count(&step["pair"]), ids] {
        check_limit("pieces around a text", pieces, PIECES)?;
    }
    let texts = step["single"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|piece| !piece["Sequence"].is_null())
        .count();
    Ok(texts.max(1))
}

fn decoder(kind: &str, step: &Value) -> Result<usize, String> {
    Ok(match kind {
        "Replace" => replacement(step)?,
        "CTC" | "BPEDecoder" | "WordPiece" => {
            for key in ["pad_token", "word_delimiter_token", "suffix", "prefix"] {
                check_limit("bytes in an affix", text(step, key).len(), AFFIX)?;
            }
            1
        }
        _ => 1,
    })
}

fn text<'a>(step: &'a Value, key: &str) -> &'a str {
    step[key].as_str().unwrap_or("")
}

/// The growth of a replacement per byte that its pattern matches.
fn replacement(step: &Value) -> Result<usize, String> {
    let content = text(step, "content").len();
    Ok(match pattern(step)? {
        // An empty pattern matches between any two characters.
        0 => 1 + content,
        taken => content.div_ceil(taken).max(1),
    })
}

/// The minimum number of bytes that the pattern of a step matches.
fn pattern(step: &Value) -> Result<usize, String> {
    let pattern = &step["pattern"];
    if let Some(text) = pattern["String"].as_str().or(pattern.as_str()) {
        check_limit("bytes in a pattern", text.len(), PATTERN)?;
        return Ok(text.len());
    }
    let regex = text(pattern, "Regex");
    check_limit("bytes in a pattern", regex.len(), PATTERN)?;
    let numbers = regex.split('{').skip(1).filter_map(|rest| {
        let numbers = rest.split_once('}')?.0;
        numbers.split(',').filter_map(|n| n.trim().parse::<usize>().ok()).max()
    });
    check_limit(
        "repetitions in a pattern",
        numbers.fold(1, |all, n| all.saturating_mul(n.max(1))),
        REPEATED,
    )?;
    Ok(0)
}

/// The longest entry of a sentencepiece charsmap: the length of a trie, the trie, and
/// null-terminated texts.
fn charsmap(base64: &str) -> Result<usize, String> {
    let bytes = STANDARD.decode(base64).map_err(|_| "its charsmap is not base64")?;
    let damaged = "its charsmap is corrupt";
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    let texts =
        rest.get(length..).filter(|_| length > 0 && length.is_multiple_of(4)).ok_or(damaged)?;
    std::str::from_utf8(texts).map_err(|_| damaged)?;
    Ok(texts.split(|b| *b == 0).map(<[u8]>::len).max().unwrap_or(0).max(1))
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Vocabulary;
        impl<'de> Visitor<'de> for Vocabulary {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_unit<E>(self) -> Result<Tokens, E> {
                Ok(Tokens::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let mut tokens = Tokens::default();
                while let Some((Length(length), _)) = map.next_entry::<Length, IgnoredAny>()? {
                    tokens.longest = tokens.longest.max(length);
                }
                Ok(tokens)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tokens, A::Error> {
                let mut all = Vec::new();
                while let Some((token, _)) = seq.next_element::<(String, IgnoredAny)>()? {
                    all.push(token);
                }
                all.sort_unstable();
                let (mut tokens, mut before) = (Tokens { is_list: true, ..Tokens::default() }, "");
                for token in &all {
                    let shared =
                        before.bytes().zip(token.bytes()).take_while(|(a, b)| a == b).count();
                    tokens.prefixes += token.len() - shared;
                    tokens.longest = tokens.longest.max(token.len());
                    before = token;
                }
                Ok(tokens)
            }
        }
        deserializer.deserialize_any(Vocabulary)
    }
}

/// The length in bytes of a string that is not stored.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token")
            }

            fn visit_str<E>(self, text: &str) -> Result<Length, E> {
                Ok(Length(text.len()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(key: &str, value: Value) -> Result<usize, String> {
        let mut file =
            json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []});
        file[key] = value;
        check(file.to_string().as_bytes())
    }

    fn replace(pattern: &str, content: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
    }

    #[test]
    fn real_tokenizers_pass() {
        // Those of llama, Qwen and XLM-RoBERTa.
        let metaspace = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]});
        assert_eq!(with("normalizer", metaspace), Ok(9));
        assert_eq!(with("normalizer", json!({"type": "NFC"})), Ok(3));
        let rule = json!({"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+"}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        assert_eq!(
            with("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": [rule, bytes]})),
            Ok(2)
        );
        // A trie of one unit, and the texts `abc` and `d`.
        let map = json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhYmMAZAA="});
        assert_eq!(with("normalizer", map), Ok(3));
        let template = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"ids": [0]}}});
        assert_eq!(with("post_processor", template), Ok(1));
    }

    #[test]
    fn unreasonable_demands_are_errors() {
        let sequence = |key: &str, step: &Value, n: usize| json!({"type": "Sequence", key: vec![step.clone(); n]});
        let doubled = replace("a", "aa");
        assert!(with("normalizer", sequence("normalizers", &doubled, 12)).is_ok());
        assert!(
            with("normalizer", sequence("normalizers", &doubled, 13))
                .unwrap_err()
                .contains("times the text")
        );
        assert!(
            with("normalizer", sequence("normalizers", &json!({"type": "NFC"}), 40))
                .unwrap_err()
                .contains("normalizers")
        );
        let nested =
            (0..6).fold(json!({"type": "NFC"}), |inner, _| sequence("normalizers", &inner, 1));
        assert!(with("normalizer", nested).unwrap_err().contains("levels"));
        let bytes = json!({"type": "ByteLevel"});
        assert!(
            with("pre_tokenizer", sequence("pretokenizers", &bytes, 20))
                .unwrap_err()
                .contains("times the text")
        );
        assert!(
            with("pre_tokenizer", json!({"type": "FixedLength", "length": 0}))
                .unwrap_err()
                .contains("length 0")
        );
        for map in ["/////w==", "BQAAAA==", "!", "AAAAAA==", ""] {
            assert!(
                with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": map}))
                    .is_err(),
                "{map}"
            );
        }
        assert!(with("normalizer", replace("", &"a".repeat(5000))).unwrap_err().contains("times"));
        assert!(
            with("decoder", sequence("decoders", &doubled, 20))
                .unwrap_err()
                .contains("in decoding")
        );
        let regex = json!({"type": "Split", "pattern": {"Regex": "(((a{1000}){1000}){1000})"}});
        assert!(with("pre_tokenizer", regex).unwrap_err().contains("repetitions"));
        let pieces = json!({"type": "TemplateProcessing", "single": vec![json!({"Sequence": {"id": "A"}}); 100]});
        assert!(with("post_processor", pieces).unwrap_err().contains("pieces"));
        assert!(
            with("model", json!({"vocab": {"a".repeat(10_000): 0}}))
                .unwrap_err()
                .contains("in a token")
        );
        assert!(
            with("model", json!({"vocab": [["a".repeat(10_000), 0.5]]}))
                .unwrap_err()
                .contains("in a token")
        );
        // Added tokens grow with the normalizer, and decoded text with the decoder.
        let mut file = json!({"model": {"vocab": {"a": 0}}, "normalizer": sequence("normalizers", &doubled, 12)});
        file["added_tokens"] = vec![json!({"content": "a".repeat(1000)}); 20].into();
        assert!(check(file.to_string().as_bytes()).unwrap_err().contains("in added tokens after"));
        file["added_tokens"] = vec![json!({"content": "a".repeat(1000)}); 1].into();
        assert!(
            check(file.to_string().as_bytes()).unwrap_err().contains("in an added token after")
        );
        let long = json!({"model": {"vocab": {"a".repeat(6000): 0}}, "decoder": sequence("decoders", &doubled, 4)});
        assert!(check(long.to_string().as_bytes()).unwrap_err().contains("per token in decoding"));
        // A unigram model keeps its prefixes in memory and copies the matching ones.
        let unigram = |tokens: Vec<String>| {
            let vocab: Vec<_> = tokens.into_iter().map(|token| json!([token, -1.0])).collect();
            with("model", json!({"type": "Unigram", "unk_id": 0, "vocab": vocab}))
        };
        assert!(unigram(vec!["a".repeat(600)]).unwrap_err().contains("in a token"));
        assert!(
            unigram(
                (0..9000)
                    .map(|i| format!("{i:0>400}").replace('0', "o").chars().rev().collect())
                    .collect()
            )
            .is_err()
        );
        assert_eq!(unigram((0..300).map(|n| "a".repeat(n)).collect()), Ok(299 / 16));
        let word = json!({"type": "WordPiece", "vocab": {}, "max_input_chars_per_word": 1_000_000});
        assert!(with("model", word).unwrap_err().contains("in a word"));
        assert!(
            check(b"{\"model\": {}, \"normalizer\": null, \"normalizer\": null}")
                .unwrap_err()
                .contains("duplicate")
        );
    }
}
