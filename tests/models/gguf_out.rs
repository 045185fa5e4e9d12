//! Written GGUF files: tensors match those of the gguf package byte for byte, and a file that is
//! read back has the same logits and splits text identically. The numbers were made by
//! `tests/data/gguf_out/make.py`; `check.py` verifies that gguf and transformers read the files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use crate::common::{data, json};
use dam_prelude::candle_core::quantized::gguf_file::{Content, Value as Gguf};
use dam_prelude::candle_core::{DType, Device};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Batch;
use dam_prelude::methods::Linear;
use dam_prelude::model::{Decoder, SourceWeights};
use dam_prelude::{Bake, Error, load};
use serde_json::{Value, json};

/// A writable copy of a directory of files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
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

/// Merges a model with itself, which reproduces it, into the file `to`.
fn written(source: &Path, to: &Path, dtype: Option<&str>) -> Result<Vec<String>, Error> {
    let source = source.display();
    let models = load([format!("a={source}"), format!("b={source}")])?;
    let options = Bake { dtype: dtype.map(str::to_owned), ..Bake::default() };
    Ok(models.merge(Linear::default())?.bake_with(to, &options)?.notes)
}

fn open(path: &Path) -> Source {
    Source::open(&path.display().to_string()).unwrap()
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
fn assert_close(found: &[f32], expected: &[f32], relative: f32, what: &str) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= relative * scale, "{what}: relative difference {:e}", worst / scale);
}

/// The 64-bit FNV-1a hash.
fn fnv(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

/// The tensors of a file (type, shape and hash of the bytes), and its metadata.
fn read_back(path: &Path) -> (BTreeMap<String, Value>, BTreeMap<String, Gguf>) {
    let bytes = fs::read(path).unwrap();
    let content = Content::read(&mut Cursor::new(&bytes)).unwrap();
    let one =
        |(name, info): (&String, &dam_prelude::candle_core::quantized::gguf_file::TensorInfo)| {
            let (per, size) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
            let start = (content.tensor_data_offset + info.offset) as usize;
            assert_eq!(start % 32, 0);
            let length = info.shape.elem_count() / per * size;
            let kind = match format!("{:?}", info.ggml_dtype).as_str() {
                "Q8_0" => "Q8_0".to_owned(),
                other => other.to_uppercase(),
            };
            (name.clone(), json!([kind, info.shape.dims(), fnv(&bytes[start..start + length])]))
        };
    let tensors = content.tensor_infos.iter().map(one).collect();
    (tensors, content.metadata.into_iter().collect())
}

/// Changes a test configuration to one that llama.cpp supports.
fn make_supported(name: &str, config: &mut Value) {
    match name {
        "gemma2" | "gemma3" => config["query_pre_attn_scalar"] = 16.into(),
        "smollm3" => {
            config["no_rope_layer_interval"] = 4.into();
            config["no_rope_layers"] = json!([1, 1, 1, 0]);
        }
        _ => {}
    }
    if name == "gemma3" {
        config["layer_types"] = json!(["sliding_attention", "sliding_attention"]);
    }
}

#[test]
fn tensors_match_the_gguf_package_and_are_read_back() {
    let expected: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_slice(&fs::read(data("gguf_out/tensors.json")).unwrap()).unwrap();
    assert_eq!(expected.len(), 11);
    let dir = tempfile::tempdir().unwrap();
    for (name, tensors) in expected {
        let source = dir.path().join(&name);
        copy(&data("families").join(&name), &source);
        configure(&source, |config| make_supported(&name, config));
        let own = open(&source);
        for dtype in [None, Some("f32"), Some("f16"), Some("bf16"), Some("q8_0")] {
            let kind = dtype.unwrap_or("stored");
            let file = dir.path().join(format!("{name}-{kind}.gguf"));
            let notes = written(&source, &file, dtype).unwrap();
            assert!(
                notes.iter().any(|note| note.contains("no source has a tokenizer")),
                "{notes:?}"
            );
            let (found, keys) = read_back(&file);
            let factors = |name: &str| name.starts_with("rope_f");
            for (tensor, expected) in &tensors {
                assert_eq!(found[tensor], expected[kind], "{name} {tensor} {kind}");
            }
            let more = found.keys().filter(|name| !tensors.contains_key(*name)).collect::<Vec<_>>();
            assert!(more.iter().all(|name| factors(name)), "{more:?}");
            assert_eq!(
                more.len(),
                match name.as_str() {
                    "llama-sharded" => 1,
                    "phi3-long" => 2,
                    _ => 0,
                }
            );
            let architecture = own.architecture().unwrap();
            let own_key = |key: &str| {
                let Gguf::String(family) = &keys["general.architecture"] else { panic!() };
                keys[&format!("{family}.{key}")].to_u32().unwrap() as usize
            };
            assert_eq!(
                (own_key("block_count"), own_key("attention.head_count")),
                (architecture.layers, architecture.heads)
            );
            // Reading it back gives the same logits. llama.cpp has no window for mistral: five
            // positions are within it.
            let ids: Vec<u32> = (0..12).map(|i| i * 7 % 64).collect();
            let ids = if name == "mistral-window" { &ids[..5] } else { &ids[..] };
            let back = open(&file);
            if dtype == Some("f32") {
                assert_close(&logits(&back, ids), &logits(&own, ids), 1e-5, &name);
                assert_eq!(back.architecture().unwrap().tied, architecture.tied);
                assert_eq!(back.architecture().unwrap().eos, architecture.eos);
            }
            if name == "mistral-window" {
                assert!(notes.iter().any(|note| note.contains("5 positions")), "{notes:?}");
                assert_eq!(back.architecture().unwrap().max_positions, 5);
            }
        }
    }
}

#[test]
fn what_llama_cpp_would_compute_differently_is_an_error() {
    let cases = [
        ("gemma2", "query_pre_attn_scalar"),
        ("gemma3", "query_pre_attn_scalar"),
        ("smollm3", "layer 1 attends to all positions"),
        ("smollm3-window", "attends"),
        ("qwen3-yarn", "attends"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, reason) in cases {
        let error =
            written(&data("families").join(name), &dir.path().join("out.gguf"), None).unwrap_err();
        assert!(
            matches!(&error, Error::GgufExport { reason: found } if found.contains(reason)),
            "{name}: {error:?}"
        );
        assert!(error.hint().unwrap().contains("directory"));
    }
    let edited = |name: &str, key: &str, value: Value| {
        let source = dir.path().join(format!("{name}-{key}"));
        copy(&data("families").join(name), &source);
        configure(&source, |config| config[key] = value);
        written(&source, &dir.path().join("out.gguf"), None).unwrap_err().to_string()
    };
    assert!(edited("qwen3", "hidden_act", json!("gelu_pytorch_tanh")).contains("GeluTanh"));
    let yarn = json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 4.0, "original_max_position_embeddings": 32});
    assert!(edited("qwen3", "rope_parameters", yarn).contains("beta_fast"));
    let long = json!({"rope_type": "longrope", "rope_theta": 1e4, "short_factor": vec![1.0; 4], "long_factor": vec![2.0; 4]});
    assert!(edited("llama-biases", "rope_parameters", long).contains("rotary"));
    assert_eq!(
        fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some())
            .count(),
        0
    );
}

#[test]
fn scaled_rotary_frequencies_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % 64).collect();
    let cases = [
        json!({"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
        json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}),
        // The scaling of the published models, and another one.
        json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}),
        json!({"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0,
            "original_max_position_embeddings": 16}),
    ];
    for (i, rope) in cases.into_iter().enumerate() {
        let source = dir.path().join(format!("{i}"));
        copy(&data("families/llama-biases"), &source);
        configure(&source, |config| config["rope_parameters"] = rope.clone());
        let file = dir.path().join(format!("{i}.gguf"));
        written(&source, &file, Some("f32")).unwrap();
        assert_close(
            &logits(&open(&file), &ids),
            &logits(&open(&source), &ids),
            1e-5,
            &rope.to_string(),
        );
    }
}

/// Decoding and encoding blocks reproduces them, and tokenizers that were read are written.
#[test]
fn a_gguf_file_round_trips() {
    let dir = tempfile::tempdir().unwrap();
    let (original, file) = (data("gguf/llama.gguf"), dir.path().join("llama.gguf"));
    written(&original, &file, Some("q8_0")).unwrap();
    let ((before, old), (after, new)) = (read_back(&original), read_back(&file));
    assert_eq!(before, after);
    for key in [
        "model",
        "tokens",
        "token_type",
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
        "add_bos_token",
    ] {
        let key = format!("tokenizer.ggml.{key}");
        assert_eq!(format!("{:?}", old[&key]), format!("{:?}", new[&key]), "{key}");
    }
    assert_eq!(
        format!("{:?}", old["tokenizer.chat_template"]),
        format!("{:?}", new["tokenizer.chat_template"])
    );
    // Overwriting it without --force is an error, and so is overwriting a source or anything that
    // is not a GGUF file.
    let again = written(&original, &file, None).unwrap_err();
    assert!(matches!(again, Error::Exists { .. }), "{again:?}");
    let forced = |source: &Path, to: &Path| {
        let models =
            load([format!("a={}", source.display()), format!("b={}", source.display())]).unwrap();
        models
            .merge(Linear::default())
            .unwrap()
            .bake_with(to, &Bake { force: true, ..Bake::default() })
    };
    assert!(matches!(forced(&file, &file).unwrap_err(), Error::Sources { .. }));
    assert!(forced(&original, &file).is_ok());
    let other = dir.path().join("other.gguf");
    fs::write(&other, "mine").unwrap();
    assert!(matches!(forced(&original, &other).unwrap_err(), Error::NotReplaced { .. }));
    assert_eq!(fs::read(&other).unwrap(), b"mine");
    fs::create_dir(dir.path().join("folder.gguf")).unwrap();
    assert!(matches!(
        forced(&original, &dir.path().join("folder.gguf")).unwrap_err(),
        Error::NotReplaced { .. }
    ));
    // Temporary files are private, and none remain.
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

/// A model with `rows` rows and the tokenizer `name`; its small weights do not matter.
fn with_tokenizer(name: &str, rows: usize, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let config = json!({"model_type": "llama", "vocab_size": rows, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true, "max_position_embeddings": 64});
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    fs::copy(data("gguf_out").join(format!("{name}.json")), to.join("tokenizer.json")).unwrap();
    let chat = match name {
        "llama3" => {
            json!({"bos_token": "<|begin|>", "eos_token": "<|eot|>", "chat_template": "{{ messages }}"})
        }
        "qwen2" => json!({"eos_token": "<|im_end|>", "pad_token": "<|end|>"}),
        "spm" | "spm-legacy" => {
            json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
        }
        _ => json!({"bos_token": "<|end|>", "eos_token": "<|end|>"}),
    };
    fs::write(to.join("tokenizer_config.json"), chat.to_string()).unwrap();
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![rows, 8]),
        ("model.norm.weight".into(), vec![8]),
        (layer("input_layernorm"), vec![8]),
        (layer("post_attention_layernorm"), vec![8]),
        (layer("self_attn.q_proj"), vec![8, 8]),
        (layer("self_attn.k_proj"), vec![4, 8]),
        (layer("self_attn.v_proj"), vec![4, 8]),
        (layer("self_attn.o_proj"), vec![8, 8]),
        (layer("mlp.gate_proj"), vec![8, 8]),
        (layer("mlp.up_proj"), vec![8, 8]),
        (layer("mlp.down_proj"), vec![8, 8]),
    ];
    let (mut header, mut bytes) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = bytes.len();
        let count: usize = shape.iter().product();
        (0..count).for_each(|i| bytes.extend(((i % 17) as f32 / 16.0 - 0.5).to_le_bytes()));
        header.insert(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, bytes.len()]}),
        );
    }
    let text = Value::Object(header).to_string();
    fs::write(
        to.join("model.safetensors"),
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes].concat(),
    )
    .unwrap();
}

const TEXTS: [&str; 7] = [
    "Hello world, it's 1234567!",
    "  the and\n\n in\t12",
    "日本語 十二足す七",
    "we'll WE'LL e\u{301} naïve",
    "the<tool>and in",
    "x = foo_bar(y)[0]; // ...",
    "👍🏽 mixed テ text",
];

fn ids(source: &Source, text: &str) -> Vec<u32> {
    source.tokenizer().unwrap().encode(text, true).unwrap().get_ids().to_vec()
}

#[test]
fn written_tokenizers_split_text_identically() {
    let dir = tempfile::tempdir().unwrap();
    // transformers read the files with check.py.
    let theirs: BTreeMap<String, BTreeMap<String, Vec<u32>>> =
        serde_json::from_slice(&fs::read(data("gguf_out/tokens.json")).unwrap()).unwrap();
    for (name, pre, rows) in [
        ("llama3", "llama-bpe", 300),
        ("qwen2", "qwen2", 291),
        ("gpt2", "gpt-2", 320),
        ("smollm", "smollm", 291),
        ("spm", "default", 300),
        ("spm-legacy", "default", 293),
    ] {
        let (source, file) = (dir.path().join(name), dir.path().join(format!("{name}.gguf")));
        with_tokenizer(name, rows, &source);
        written(&source, &file, None).unwrap();
        let (own, back) = (open(&source), open(&file));
        let (_, keys) = read_back(&file);
        assert_eq!(keys["tokenizer.ggml.pre"].to_string().unwrap(), pre);
        let Gguf::Array(tokens) = &keys["tokenizer.ggml.tokens"] else { panic!() };
        assert_eq!(tokens.len(), rows);
        // As in transformers, no space is put before a text that begins with one.
        for text in TEXTS.into_iter().filter(|text| name != "spm-legacy" || !text.starts_with(' '))
        {
            assert_eq!(ids(&back, text), ids(&own, text), "{name}: {text}");
            if let Some(expected) = theirs.get(name).and_then(|texts| texts.get(text)) {
                assert_eq!(&ids(&own, text), expected, "{name}: {text}");
            }
        }
        assert_eq!(back.chat_template(), own.chat_template());
        assert!(back.notes().is_empty(), "{:?}", back.notes());
    }
    assert_eq!(theirs.len(), 6);
    // Tokens without rows are left out.
    let (source, file) = (dir.path().join("small"), dir.path().join("small.gguf"));
    with_tokenizer("qwen2", 290, &source);
    let notes = written(&source, &file, None).unwrap();
    assert!(notes.iter().any(|note| note.contains("1 tokens without a row")), "{notes:?}");
    assert_eq!(ids(&open(&file), TEXTS[0]), ids(&open(&source), TEXTS[0]));
    // An unsupported tokenizer is an error that names the file.
    with_tokenizer("unknown", 300, &dir.path().join("unknown"));
    let error =
        written(&dir.path().join("unknown"), &dir.path().join("unknown.gguf"), None).unwrap_err();
    assert!(
        matches!(&error, Error::GgufExport { reason } if reason.contains("tokenizer.json") && reason.contains("pre-tokenizer")),
        "{error:?}"
    );
}

/// The error for the tokenizer `name` with a changed tokenizer.json.
fn tokenizer_error(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let dir = tempfile::tempdir().unwrap();
    with_tokenizer(name, 300, dir.path());
    let file = dir.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut tokenizer);
    fs::write(&file, tokenizer.to_string()).unwrap();
    written(dir.path(), &dir.path().join("out.gguf"), None).unwrap_err().to_string()
}

#[test]
fn tokenizers_that_would_split_differently_are_errors() {
    assert!(
        tokenizer_error("llama3", |t| t["model"]["ignore_merges"] = false.into())
            .contains("pre-tokenizer")
    );
    assert!(
        tokenizer_error("qwen2", |t| t["normalizer"] = json!({"type": "Lowercase"}))
            .contains("pre-tokenizer")
    );
    // White space after a special token is stripped.
    assert!(
        tokenizer_error("qwen2", |t| t["added_tokens"][1]["rstrip"] = true.into())
            .contains("differently")
    );
    assert!(
        tokenizer_error("gpt2", |t| t["pre_tokenizer"]["add_prefix_space"] = true.into())
            .contains("pre-tokenizer")
    );
    assert!(
        tokenizer_error("spm", |t| t["model"]["merges"].as_array_mut().unwrap().truncate(5))
            .contains("scores")
    );
    let processor = json!({"type": "BertProcessing", "sep": ["<|end|>", 0], "cls": ["<|end|>", 0]});
    assert!(
        tokenizer_error("gpt2", |t| t["post_processor"] = processor).contains("special tokens")
    );
}

#[test]
fn verbs_write_gguf_files_and_report_invalid_options() {
    let dir = tempfile::tempdir().unwrap();
    let model = data("gguf/llama.gguf").display().to_string();
    let (replies, fine) =
        json(dir.path(), &format!("load a={model} b={model}; wrap; bake merged.gguf dtype=q8_0"));
    assert!(fine && replies.last().unwrap().to_string().contains("merged.gguf"), "{replies:?}");
    assert!(
        json(dir.path(), &format!("load a={model} b={model}; merge linear static.gguf dtype=f16"))
            .1
    );
    assert!(
        json(dir.path(), "load a=merged.gguf b=static.gguf; merge linear; generate abc tokens=2").1
    );
    for (line, expected) in [
        ("bake out dtype=q8_0", "GGUF"),
        ("bake out.gguf shard=1GB", "shard"),
        ("bake out.gguf dtype=q4_0", "q4_0"),
        ("merge linear out dtype=q8_0", "GGUF"),
    ] {
        let (replies, fine) = json(dir.path(), &format!("load a={model} b={model}; wrap; {line}"));
        assert!(
            !fine && replies.last().unwrap().to_string().contains(expected),
            "{line}: {replies:?}"
        );
    }
    assert!(!dir.path().join("out.gguf").exists() && !dir.path().join("out").exists());
}
