//! Weights in various formats: PyTorch's `.bin`, float8 with scales, leftover and real
//! quantization, tokenizers with more ids than rows, missing output layers. The files and numbers
//! were made by `tests/data/formats/make.py`.

use std::fs;
use std::path::Path;

use crate::common::{data, json};
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::{Batch, Dataset};
use dam_prelude::methods::Linear;
use dam_prelude::model::{Decoder, SourceWeights};
use dam_prelude::{Bake, Error, load};
use serde_json::Value;

fn model_path(name: &str) -> String {
    data("formats").join(name).display().to_string()
}

fn expected() -> std::collections::HashMap<String, Tensor> {
    safetensors::load(model_path("expected.safetensors"), &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

fn logits(source: &Source, ids: &[u32]) -> Vec<f32> {
    let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
    let decoder = Decoder::new(source.architecture().unwrap(), &weights);
    let batch = Batch::new([ids], &Device::Cpu).unwrap();
    values(&decoder.logits(&decoder.hidden(&batch).unwrap()).unwrap())
}

#[track_caller]
fn assert_close(found: &[f32], expected: &Tensor, relative: f32) {
    let expected = values(expected);
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= relative * scale, "relative difference {:e}", worst / scale);
}

/// A writable copy of a built-in model.
fn copy_builtin(name: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude/builtin").join(name))
            .unwrap()
    {
        let from = entry.unwrap().path();
        fs::write(to.join(from.file_name().unwrap()), fs::read(&from).unwrap()).unwrap();
    }
}

/// Changes config.json of `directory`.
fn configure(directory: &Path, change: impl FnOnce(&mut Value)) {
    let file = directory.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut config);
    fs::write(file, config.to_string()).unwrap();
}

fn open(directory: &Path) -> Result<Source, Error> {
    Source::open(&directory.display().to_string())
}

/// Merges a checkpoint with itself, and the result.
fn baked(source: &str, to: &Path, options: &Bake) -> Source {
    let models = load([format!("a={source}"), format!("b={source}")]).unwrap();
    let written = models.merge(Linear::default()).unwrap().bake_with(to, options).unwrap();
    open(&written.path).unwrap()
}

#[test]
fn bin_shards_run_as_in_transformers_and_are_baked_as_safetensors() {
    let (expected, dir) = (expected(), tempfile::tempdir().unwrap());
    let ids = expected["input_ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
    let source = Source::open(&model_path("bin-shards")).unwrap();
    assert_eq!(source.format(), "bf16");
    assert_close(&logits(&source, &ids[0]), &expected["bin-shards"], 1e-5);
    let merged = baked(&model_path("bin-shards"), &dir.path().join("out"), &Bake::default());
    assert_close(&logits(&merged, &ids[0]), &expected["bin-shards"], 1e-5);
    assert!(dir.path().join("out/model.safetensors").is_file());
    // A path to the index stands for its directory; a missing .bin shard is named.
    assert!(Source::open(&model_path("bin-shards/pytorch_model.bin.index.json")).is_ok());
    let broken = dir.path().join("broken");
    fs::create_dir(&broken).unwrap();
    for name in ["config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"]
    {
        fs::copy(data("formats/bin-shards").join(name), broken.join(name)).unwrap();
    }
    let error = open(&broken).unwrap_err();
    assert!(
        matches!(&error, Error::MissingFile { file, .. } if file == "pytorch_model-00002-of-00002.bin"),
        "{error:?}"
    );
}

#[test]
fn safetensors_take_precedence_over_bin() {
    let dir = tempfile::tempdir().unwrap();
    copy_builtin("math", dir.path());
    fs::write(dir.path().join("pytorch_model.bin"), b"no archive").unwrap();
    assert!(open(dir.path()).is_ok());
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Torch { .. }) && error.hint().unwrap().contains("save_file"),
        "{error:?}"
    );
}

#[test]
fn float8_matches_torch_values_and_transformers_logits() {
    let (expected, dir) = (expected(), tempfile::tempdir().unwrap());
    let ids = expected["input_ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
    for (name, format) in
        [("fp8-block", "f8_e4m3"), ("fp8-channel", "f8_e4m3"), ("fp8-tensor", "f8_e5m2")]
    {
        let source = Source::open(&model_path(name)).unwrap();
        assert_eq!(source.format(), format);
        let notes = source.notes().join("\n");
        assert!(notes.contains("float8") && notes.contains("quantization_config"), "{notes}");
        assert_eq!(notes.contains("input_scale"), name == "fp8-tensor");
        assert_close(&logits(&source, &ids[0]), &expected[name], 1e-5);
        // Exact to the last bit if baked as f32; otherwise the nearest bf16.
        let exact = Bake { dtype: Some("f32".into()), ..Bake::default() };
        for (options, dtype) in [(exact, DType::F32), (Bake::default(), DType::BF16)] {
            let to = dir.path().join(format!("{name}-{dtype:?}"));
            let merged = baked(&model_path(name), &to, &options);
            assert!(merged.notes().is_empty(), "{:?}", merged.notes());
            let config: Value =
                serde_json::from_slice(&fs::read(to.join("config.json")).unwrap()).unwrap();
            assert!(config.get("quantization_config").is_none());
            let tensors = safetensors::load(to.join("model.safetensors"), &Device::Cpu).unwrap();
            assert_eq!(tensors.len(), 12, "no scales");
            for key in ["self_attn.k_proj.weight", "mlp.down_proj.weight"]
                .map(|key| format!("model.layers.0.{key}"))
            {
                let (found, whole) = (&tensors[&key], &expected[&format!("{name}.{key}")]);
                assert_eq!(found.dtype(), dtype);
                assert_eq!(values(found), values(&whole.to_dtype(dtype).unwrap()), "{name} {key}");
            }
        }
    }
}

/// Every code of both formats, as in torch.
#[test]
fn float8_without_a_scale_is_decoded_from_its_codes() {
    let (expected, dir) = (expected(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("config.json"), r#"{"model_type": "other"}"#).unwrap();
    for (name, kind, nan) in [
        ("e4m3", "F8_E4M3", &[0x7f, 0xff][..]),
        ("e5m2", "F8_E5M2", &[0x7c, 0x7d, 0x7e, 0x7f, 0xfc, 0xfd, 0xfe, 0xff]),
    ] {
        let codes: Vec<u8> =
            (0..=255).map(|code: u8| if nan.contains(&code) { 0 } else { code }).collect();
        let header = format!(
            r#"{{"x.weight":{{"dtype":"{kind}","shape":[2,128],"data_offsets":[0,256]}}}}"#
        );
        let file = |codes: &[u8]| {
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), codes].concat()
        };
        fs::write(dir.path().join("model.safetensors"), file(&codes)).unwrap();
        let to = dir.path().join(name);
        let options = Bake { dtype: Some("f32".into()), ..Bake::default() };
        baked(&dir.path().display().to_string(), &to, &options);
        let found = values(
            &safetensors::load(to.join("model.safetensors"), &Device::Cpu).unwrap()["x.weight"],
        );
        let torch = values(&expected[name]);
        let torch = torch
            .into_iter()
            .enumerate()
            .map(|(code, x)| if nan.contains(&(code as u8)) { 0.0 } else { x });
        assert_eq!(found, torch.collect::<Vec<f32>>());
        // A NaN code is reported with its position.
        let mut codes = codes;
        codes[131] = nan[0];
        fs::write(dir.path().join("model.safetensors"), file(&codes)).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::NonFinite { position: 131, .. }), "{error:?}");
    }
}

/// The error for `fp8-block` with a changed config.json and header.
fn float8_error(change: impl FnOnce(&mut Value, &mut Value)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(data("formats/fp8-block/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(data("formats/fp8-block/config.json")).unwrap()).unwrap();
    change(&mut config, &mut header);
    let text = header.to_string();
    let bytes =
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[8 + length..]].concat();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    open(dir.path()).unwrap_err()
}

#[test]
fn scales_that_do_not_fit_are_errors() {
    const SCALE: &str = "model.layers.0.mlp.up_proj.weight_scale_inv";
    // 56 rows of 40, in blocks of 32: 2 x 2.
    let error = float8_error(|_, header| header[SCALE]["shape"] = serde_json::json!([4, 1]));
    let fits = |e: &Error| matches!(e, Error::Shape { tensor, expected, .. } if tensor.contains(SCALE) && *expected == [2, 2]);
    assert!(fits(&error), "{error:?}");
    // A given block size must match the scales.
    let error = float8_error(|config, _| {
        config["quantization_config"]["weight_block_size"] = serde_json::json!([16, 16])
    });
    assert!(matches!(&error, Error::Shape { .. }), "{error:?}");
    let error = float8_error(|_, header| {
        let scale = header.as_object_mut().unwrap().remove(SCALE).unwrap();
        header["unknown_name"] = scale;
    });
    assert!(matches!(&error, Error::MissingTensor { tensor, .. } if tensor == SCALE), "{error:?}");
    let error = float8_error(|_, header| header[SCALE]["dtype"] = "I32".into());
    assert!(matches!(&error, Error::Quantized { tensor, .. } if tensor == SCALE), "{error:?}");
}

#[test]
fn a_quantization_config_with_plain_floats_is_ignored() {
    for method in [
        serde_json::json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
        serde_json::json!({"quant_method": "gptq", "bits": 4}),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("leftover");
        copy_builtin("math", &source);
        configure(&source, |config| config["quantization_config"] = method.clone());
        let loaded = open(&source).unwrap();
        assert!(loaded.architecture().is_ok());
        let note = loaded.notes().join("\n");
        assert!(
            note.contains(method["quant_method"].as_str().unwrap())
                && note.contains("plain floats"),
            "{note}"
        );
        let to = dir.path().join("out");
        baked(&source.display().to_string(), &to, &Bake::default());
        assert!(
            !fs::read_to_string(to.join("config.json")).unwrap().contains("quantization_config")
        );
    }
}

/// Writes a file of consecutive tensors, all zero.
fn write_zeros(directory: &Path, tensors: &[(&str, &str, &[usize], usize)]) {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, dtype, shape, width) in tensors {
        let end = at + shape.iter().product::<usize>() * width;
        header.insert(
            (*name).into(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let text = Value::Object(header).to_string();
    let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0; at]].concat();
    fs::write(directory.join("model.safetensors"), bytes).unwrap();
}

type Stored = (&'static str, &'static str, &'static [usize], usize);

#[test]
fn packed_weights_are_errors_that_name_the_method() {
    const GPTQ: &[Stored] = &[
        ("l.q.qweight", "I32", &[4, 8], 4),
        ("l.q.scales", "F16", &[1, 8], 2),
        ("l.q.g_idx", "I32", &[32], 4),
    ];
    const BNB4: &[Stored] =
        &[("l.q.weight", "U8", &[16, 1], 1), ("l.q.weight.absmax", "F32", &[2], 4)];
    const BNB8: &[Stored] = &[("l.q.weight", "I8", &[4, 8], 1), ("l.q.SCB", "F32", &[4], 4)];
    const PACKED: &[Stored] =
        &[("l.q.weight_packed", "I32", &[4, 1], 4), ("l.q.weight_scale", "BF16", &[4, 1], 2)];
    const HQQ: &[Stored] = &[("l.q.W_q", "U8", &[4, 8], 1), ("l.q.scale", "F16", &[1, 8], 2)];
    const EETQ: &[Stored] =
        &[("l.q.weight", "I8", &[4, 8], 1), ("l.q.weight_scales", "F16", &[8], 2)];
    const NVFP4: &[Stored] =
        &[("l.q.weight", "U8", &[4, 8], 1), ("l.q.weight_scale", "F8_E4M3", &[4, 1], 1)];
    const MXFP4: &[Stored] = &[
        ("l.experts.down_proj_blocks", "U8", &[2, 4, 2, 16], 1),
        ("l.experts.down_proj_scales", "U8", &[2, 4, 2], 1),
    ];
    let cases: [(&str, &[Stored], &str); 8] = [
        ("gptq", GPTQ, "GPTQ"),
        ("bitsandbytes", BNB4, "4 bits"),
        ("bitsandbytes", BNB8, "8 bits"),
        ("compressed-tensors", PACKED, "compressed-tensors"),
        ("hqq", HQQ, "HQQ"),
        ("eetq", EETQ, "EETQ"),
        ("modelopt", NVFP4, "U8"),
        ("mxfp4", MXFP4, "MXFP4"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (method, tensors, guess) in cases {
        for family in ["mixtral", "llama"] {
            for declared in [true, false] {
                let mut config = serde_json::json!({"model_type": family});
                if declared {
                    config["quantization_config"] = serde_json::json!({"quant_method": method});
                }
                fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
                write_zeros(dir.path(), tensors);
                let error = open(dir.path()).unwrap_err();
                let named =
                    |found: &str| if declared { found == method } else { found.contains(guess) };
                assert!(
                    matches!(&error, Error::Quantized { method, .. } if named(method)),
                    "{method} {family} {declared}: {error:?}"
                );
                assert!(error.hint().unwrap().contains("dequantize"));
            }
        }
    }
    // Masks and positions are not weights.
    fs::write(dir.path().join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    write_zeros(
        dir.path(),
        &[
            ("h.0.attn.bias", "U8", &[1, 1, 8, 8], 1),
            ("position_ids", "I64", &[1, 8], 8),
            ("wte.weight", "F32", &[4, 8], 4),
        ],
    );
    assert!(open(dir.path()).is_ok());
    // Integer weights are errors.
    write_zeros(dir.path(), &[("wte.weight", "I64", &[4, 8], 8)]);
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::DType { found, .. } if found == "I64"), "{error:?}");
}

#[test]
fn f64_is_rounded_to_f32() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), r#"{"model_type": "other"}"#).unwrap();
    let header = r#"{"x.weight":{"dtype":"F64","shape":[1,3],"data_offsets":[0,24]}}"#;
    let numbers = [1.0f64 / 3.0, -2.5, 1e-320];
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    fs::write(
        dir.path().join("model.safetensors"),
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat(),
    )
    .unwrap();
    let source = open(dir.path()).unwrap();
    assert!(source.notes()[0].contains("f64"), "{:?}", source.notes());
    let to = dir.path().join("out");
    baked(&dir.path().display().to_string(), &to, &Bake::default());
    let found =
        values(&safetensors::load(to.join("model.safetensors"), &Device::Cpu).unwrap()["x.weight"]);
    assert_eq!(found, numbers.map(|x| x as f32));
}

/// Makes a copy of a built-in checkpoint with added tokens for which the embedding has no rows.
fn with_rowless(directory: &Path, tokens: &[&str]) -> usize {
    copy_builtin("math", directory);
    let file = directory.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    let rows = config["vocab_size"].as_u64().unwrap() as usize;
    for (i, token) in tokens.iter().enumerate() {
        let added = serde_json::json!({"id": rows + i, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    }
    fs::write(file, tokenizer.to_string()).unwrap();
    rows
}

#[test]
fn tokens_without_a_row_merge_with_a_note_and_fail_when_used() {
    let dir = tempfile::tempdir().unwrap();
    let (big, plain) = (dir.path().join("big"), dir.path().join("plain"));
    let rows = with_rowless(&big, &["<extra>", "<more>"]);
    copy_builtin("math", &plain);
    let source = open(&big).unwrap();
    let note = source.notes().join("\n");
    assert!(
        note.contains("`<extra>`")
            && note.contains(&format!("`{rows}` rows"))
            && note.contains("2 tokens"),
        "{note}"
    );
    // Text without these tokens is valid data; text with one is an error that names file, row and
    // token.
    let lines = dir.path().join("lines.jsonl");
    fs::write(&lines, "{\"text\": \"1 + 2\"}\n").unwrap();
    assert!(Dataset::read(&lines.display().to_string(), &source).is_ok());
    fs::write(&lines, "{\"text\": \"1 + 2\"}\n{\"text\": \"1 <more> 2\"}\n").unwrap();
    let error = Dataset::read(&lines.display().to_string(), &source).unwrap_err();
    let named = |e: &Error| matches!(e, Error::TokenOutOfRange { line: 2, token: Some(token), .. } if token == "<more>");
    assert!(named(&error) && error.to_string().contains("lines.jsonl"), "{error:?}");
    // The same with a source that has the same rows; the baked tokenizer is unchanged.
    for (first, second) in [(&big, &plain), (&plain, &big)] {
        let to = dir.path().join("out");
        let specs = [format!("a={}", first.display()), format!("b={}", second.display())];
        load(specs)
            .unwrap()
            .merge(Linear::default())
            .unwrap()
            .bake_with(&to, &Bake { force: true, ..Bake::default() })
            .unwrap();
        let own = |directory: &Path| fs::read(directory.join("tokenizer.json")).unwrap();
        assert!(own(&to) == own(first));
        assert_eq!(open(&to).unwrap().architecture().unwrap().vocabulary, rows);
    }
    // In a session, and in generation with such a token.
    let line = format!(
        "load a={} b={}; merge linear; generate '1 <more> 2'",
        big.display(),
        plain.display()
    );
    let (replies, fine) = json(dir.path(), &line);
    assert!(!fine && replies.last().unwrap().to_string().contains("<more>"), "{replies:?}");
    let line = format!(
        "load a={} b={}; merge linear; generate '1 + 2' tokens=3",
        big.display(),
        plain.display()
    );
    assert!(json(dir.path(), &line).1);
}

#[test]
fn an_untied_model_without_an_output_layer_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    copy_builtin("math", dir.path());
    // The built-in models are tied.
    for tied in [Value::Bool(false), Value::Null] {
        configure(dir.path(), |config| config["tie_word_embeddings"] = tied.clone());
        let error = open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, Error::NoOutputLayer { .. })
                && error.hint().unwrap().contains("tie_word_embeddings"),
            "{error:?}"
        );
    }
}

/// Classifiers, reward models and embedding models of known families: all that they store is
/// merged, and they neither run nor train.
#[test]
fn models_with_another_head_merge_whole_and_do_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, class: &str, tied: bool, score: Option<f32>| {
        let path = dir.path().join(name);
        copy_builtin("math", &path);
        configure(&path, |config| {
            config["architectures"] = Value::from(vec![class]);
            config["tie_word_embeddings"] = tied.into();
        });
        let file = path.join("model.safetensors");
        let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
        let width = tensors["model.norm.weight"].dims()[0];
        if let Some(score) = score {
            let score = Tensor::full(score, (2, width), &Device::Cpu).unwrap();
            tensors.insert("score.weight".into(), score);
        }
        safetensors::save(&tensors, &file).unwrap();
        path.display().to_string()
    };
    for (class, tied, scores) in [
        ("LlamaForSequenceClassification", true, Some([1.0, 2.0])),
        ("LlamaForTokenClassification", false, Some([3.0, 5.0])),
        ("LlamaModel", false, None),
    ] {
        let score = |i: usize| scores.map(|scores| scores[i]);
        let paths = [0, 1].map(|i| make(&format!("{class}{i}"), class, tied, score(i)));
        let models = load(paths.clone()).unwrap();
        let merged = models.merge(Linear::default()).unwrap();
        let out = dir.path().join(format!("out-{class}"));
        merged.bake(&out).unwrap();
        let written = safetensors::load(out.join("model.safetensors"), &Device::Cpu).unwrap();
        let expected =
            safetensors::load(Path::new(&paths[0]).join("model.safetensors"), &Device::Cpu)
                .unwrap();
        assert_eq!(written.len(), expected.len(), "{class}");
        if let Some([a, b]) = scores {
            let mean = (a + b) / 2.0;
            assert!(values(&written["score.weight"]).iter().all(|x| *x == mean), "{class}");
        }
        let config =
            serde_json::from_slice::<Value>(&fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["architectures"][0], class);
        let error = models.wrap(dam_prelude::Columns::default()).unwrap_err();
        let (text, hint) = (error.to_string(), error.hint().unwrap());
        assert!(text.contains(class) && text.contains("not a language model"), "{text}");
        assert!(hint.contains("merge linear"), "{hint}");
    }
}
