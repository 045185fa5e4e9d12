//! GGUF files load as in transformers and are baked as checkpoints. The files and numbers were made
//! by `tests/data/gguf/make.py`.

use std::collections::BTreeMap;
use std::fs;

use crate::common::data;
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::{Batch, Dataset};
use dam_prelude::model::{Decoder, SourceWeights};
use dam_prelude::{Columns, Error, load};

fn file(name: &str) -> String {
    data("gguf").join(name).display().to_string()
}

fn logits(source: &Source, ids: &[u32]) -> Vec<f32> {
    let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
    let decoder = Decoder::new(source.architecture().unwrap(), &weights);
    let batch = Batch::new([ids], &Device::Cpu).unwrap();
    decoder
        .logits(&decoder.hidden(&batch).unwrap())
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &Tensor, relative: f32) {
    let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= relative * scale, "relative difference {:e}", worst / scale);
}

#[test]
fn logits_match_transformers_before_and_after_baking() {
    let expected = safetensors::load(data("gguf/expected.safetensors"), &Device::Cpu).unwrap();
    let ids = expected["input_ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, format) in [("llama", "Q8_0"), ("qwen2", "Q4_1")] {
        let models = load([
            format!("a={}", file(&format!("{name}.gguf"))),
            format!("b={}", file(&format!("{name}.gguf"))),
        ])
        .unwrap();
        assert_eq!(models.report().0[0].dtype, format);
        assert_close(&logits(models.source("a").unwrap(), &ids[0]), &expected[name], 1e-5);
        // Merging a model with itself reproduces it; biases start at 1 each, so they are halved.
        let columns = Columns { bias: dam_prelude::BiasStart::Same, ..Columns::default() };
        let written = models.wrap(columns).unwrap().bake(dir.path().join(name)).unwrap();
        let baked = Source::open(&written.path.display().to_string()).unwrap();
        assert_close(&logits(&baked, &ids[0]), &expected[name], 1e-5);
        assert_eq!(baked.chat_template(), models.source("a").unwrap().chat_template());
        let token = |s: &Source| {
            s.tokenizer().unwrap().get_vocab(true).into_iter().collect::<BTreeMap<_, _>>()
        };
        assert_eq!(token(&baked), token(models.source("a").unwrap()));
    }
}

/// Files written by `tests/data/gguf/make_families.py` from models whose logits match transformers.
#[test]
fn olmo2_and_granite_match_their_original_models() {
    let expected = safetensors::load(data("families/expected.safetensors"), &Device::Cpu).unwrap();
    let ids = expected["input_ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
    for name in ["olmo2", "granite"] {
        let source = Source::open(&file(&format!("{name}.gguf"))).unwrap();
        for (row, ids) in ids.iter().enumerate() {
            assert_close(&logits(&source, ids), &expected[name].get(row).unwrap(), 1e-5);
        }
        assert!(source.unused().is_empty(), "{:?}", source.unused());
    }
}

#[test]
fn an_unsupported_architecture_has_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.gguf");
    let bytes = fs::read(file("olmo2.gguf")).unwrap();
    let at = bytes.windows(5).position(|w| w == b"olmo2").unwrap();
    fs::write(&path, [&bytes[..at], b"olmo9", &bytes[at + 5..]].concat()).unwrap();
    let error = Source::open(&path.display().to_string()).unwrap_err();
    assert!(matches!(&error, Error::UnknownFamily { found, .. } if found == "olmo9"), "{error:?}");
    assert!(error.hint().unwrap().contains("granite; for other families"), "{error:?}");
}

#[test]
fn tokens_match_transformers() {
    let expected: BTreeMap<String, Vec<u32>> =
        serde_json::from_slice(&fs::read(data("gguf/tokens.json")).unwrap()).unwrap();
    let source = Source::open(&file("llama.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (text, ids) in expected {
        let lines = dir.path().join("text.jsonl");
        fs::write(&lines, serde_json::json!({"text": text}).to_string()).unwrap();
        let read = Dataset::read(&lines.display().to_string(), &source).unwrap();
        assert_eq!(read.examples[0].ids, ids, "{text}");
    }
}

/// The error for a file changed by `damage`.
#[track_caller]
fn corrupt_error(damage: impl FnOnce(&mut Vec<u8>)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.gguf");
    let mut bytes = fs::read(file("llama.gguf")).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let error = load([path.display().to_string()]).unwrap_err();
    assert!(format!("{error:?}").contains("damaged.gguf"), "{error:?}");
    error
}

/// Overwrites the bytes `skip` bytes after the first occurrence of `key`.
fn overwrite_after(bytes: &mut [u8], key: &str, skip: usize, new: &[u8]) {
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + skip;
    bytes[at..at + new.len()].copy_from_slice(new);
}

#[test]
fn corrupt_files_are_errors() {
    assert!(matches!(corrupt_error(|b| b.clear()), Error::Gguf { .. }));
    assert!(matches!(corrupt_error(|b| b[0] = b'X'), Error::Gguf { .. }));
    assert!(matches!(corrupt_error(|b| b[4] = 9), Error::Gguf { .. }));
    for length in [5, 23, 100, 3000] {
        corrupt_error(|b| b.truncate(length));
    }
    corrupt_error(|b| b.truncate(b.len() - 100));
    // The number of tensors and of metadata, the length of a string, the length of an array.
    corrupt_error(|b| b[8..16].copy_from_slice(&(1u64 << 60).to_le_bytes()));
    corrupt_error(|b| b[16..24].copy_from_slice(&u64::MAX.to_le_bytes()));
    corrupt_error(|b| b[24..32].copy_from_slice(&(1u64 << 50).to_le_bytes()));
    corrupt_error(|b| overwrite_after(b, "tokenizer.ggml.tokens", 8, &(1u64 << 59).to_le_bytes()));
    // The first dimension, type and offset of a tensor.
    corrupt_error(|b| overwrite_after(b, "token_embd.weight", 4, &(1u64 << 61).to_le_bytes()));
    corrupt_error(|b| overwrite_after(b, "token_embd.weight", 4, &33u64.to_le_bytes()));
    corrupt_error(|b| overwrite_after(b, "token_embd.weight", 20, &99u32.to_le_bytes()));
    corrupt_error(|b| overwrite_after(b, "token_embd.weight", 24, &(1u64 << 62).to_le_bytes()));
    // A number of heads that does not divide the rows.
    corrupt_error(|b| overwrite_after(b, "llama.attention.head_count", 4, &7u32.to_le_bytes()));
    // A NaN scale.
    let error = corrupt_error(|b| {
        let end = b.len() - 34 * 2;
        b[end..end + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    });
    assert!(matches!(error, Error::NonFinite { .. }), "{error:?}");
}

#[test]
fn every_bit_flip_of_the_header_is_an_error_or_a_model() {
    let bytes = fs::read(file("qwen2.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.gguf");
    for at in (0..2600).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, flipped).unwrap();
        let _ = Source::open(&path.display().to_string());
    }
}
