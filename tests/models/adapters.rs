//! Adapters of every kind match the weights and logits of PEFT. The adapters and numbers were made
//! by `tests/data/adapters/make.py`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::common::data;
use dam_prelude::Models;
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Batch;
use dam_prelude::model::{Decoder, SourceWeights, Weights};
use serde_json::{Value, json};
use tempfile::TempDir;

fn model_path(name: &str) -> String {
    data("adapters").join(name).display().to_string()
}

/// `BASE+ADAPTER...`.
fn with(base: &str, adapters: &[&str]) -> String {
    adapters
        .iter()
        .fold(model_path(base), |spec, adapter| format!("{spec}+{}", model_path(adapter)))
}

fn expected() -> HashMap<String, Tensor> {
    safetensors::load(data("adapters/expected.safetensors"), &Device::Cpu).unwrap()
}

fn max_difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    (found - expected)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

/// The logits of a source for the tokens 1 to 8.
fn logits(source: &Source) -> Tensor {
    let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
    let decoder = Decoder::new(source.architecture().unwrap(), &weights);
    let ids: Vec<u32> = (1..9).collect();
    let batch = Batch::new([ids.as_slice()], &Device::Cpu).unwrap();
    decoder.logits(&decoder.hidden(&batch).unwrap()).unwrap()
}

/// The base of each case; `stacked` is applied to the result of `dora`.
fn base(case: &str) -> &'static str {
    const TIED: [&str; 8] = [
        "head-",
        "embedding-",
        "both-",
        "kept-",
        "tokens-tied",
        "tokens-of",
        "tokens-apart",
        "resized-tied",
    ];
    match case {
        _ if TIED.iter().any(|start| case.starts_with(start)) => "tied",
        _ if case.starts_with("transposed") => "gpt2",
        "pissa-half" => "half",
        _ => "untied",
    }
}

fn opened(case: &str) -> Source {
    let adapters = if case == "stacked" { vec!["dora", "stacked"] } else { vec![case] };
    Source::open(&with(base(case), &adapters)).unwrap()
}

#[test]
fn weights_and_logits_match_peft() {
    let mut cases: Vec<(String, Vec<(String, Tensor)>)> = Vec::new();
    let mut all: Vec<(String, Tensor)> = expected().into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, tensor) in all {
        let (case, name) = key.split_once('/').unwrap();
        match cases.last_mut() {
            Some((last, tensors)) if last == case => tensors.push((name.into(), tensor)),
            _ => cases.push((case.into(), vec![(name.into(), tensor)])),
        }
    }
    assert_eq!(cases.len(), 38);
    let mut failed = Vec::new();
    for (case, tensors) in cases {
        let source = opened(&case);
        let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
        for (name, expected) in tensors {
            let found = match name.as_str() {
                "logits" => logits(&source),
                // transformers' name for the output layer of a tied model.
                HEAD if source.architecture().unwrap().tied => weights.weight(EMBEDDING).unwrap(),
                _ => weights.weight(&name).unwrap().to_dtype(DType::F32).unwrap(),
            };
            // Relative to the largest logit. PEFT decomposes in single precision, which costs some
            // digits.
            let scale = if name == "logits" {
                max_difference(&expected, &expected.zeros_like().unwrap())
            } else {
                1.0
            };
            let tolerance = if name == "logits" || case.contains("pissa") || case == "stacked" {
                1e-5
            } else {
                2e-6
            };
            let worst = max_difference(&found, &expected) / scale;
            if worst >= tolerance {
                failed.push(format!("{case} {name}: {worst:e}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A copy of the adapter `name` with edited configuration and tensors.
fn edited(
    name: &str,
    config: impl FnOnce(&mut Value),
    tensors: impl FnOnce(&mut HashMap<String, Tensor>),
) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = data("adapters").join(name);
    let mut json: Value =
        serde_json::from_slice(&fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    config(&mut json);
    fs::write(dir.path().join("adapter_config.json"), json.to_string()).unwrap();
    let mut all = safetensors::load(from.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    tensors(&mut all);
    safetensors::save(&all, dir.path().join("adapter_model.safetensors")).unwrap();
    dir
}

fn apply_adapter(base: &str, adapter: &Path) -> dam_prelude::Result<Source> {
    Source::open(&format!("{}+{}", model_path(base), adapter.display()))
}

/// Setting `key` to `value` is an error.
#[track_caller]
fn assert_key_error(key: &str, value: Value, words: &[&str]) {
    let shown = value.to_string();
    let dir = edited("layers", |config| config[key] = value, |_| {});
    let error = apply_adapter("untied", dir.path()).unwrap_err();
    let text = format!("{error}");
    assert!(
        text.contains("adapter_config.json") && text.contains(&format!("`{key}`")),
        "{key}={shown}: {text}"
    );
    assert!(words.iter().all(|word| text.contains(word)), "{key}={shown}: {text}");
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{key}={shown}: {text}");
}

#[test]
fn unsupported_settings_are_errors_that_name_the_key() {
    for init in [
        "corda",
        "loftq",
        "lora_ga",
        "corda_ipm",
        "PiSSA",
        "pissa_niter_",
        "pissa_niter_x",
        "xavier",
    ] {
        assert_key_error("init_lora_weights", json!(init), &[init]);
    }
    assert_key_error("init_lora_weights", json!(3), &["`3`"]);
    assert_key_error("peft_type", json!("IA3"), &["IA3", "LORA"]);
    assert_key_error("peft_type", json!(null), &["none"]);
    assert_key_error("use_dora", json!(true), &["magnitudes"]);
    assert_key_error("bias", json!("some"), &["some", "lora_only"]);
    assert_key_error("r", json!(5), &["rank `4`"]);
    assert_key_error("r", json!("four"), &["`\"four\"` is not a number"]);
    assert_key_error("lora_alpha", json!([1]), &["not a number"]);
    assert_key_error("rank_pattern", json!({"(": 3}), &["("]);
    assert_key_error("rank_pattern", json!({"q_proj": -1}), &["-1"]);
    assert_key_error("alpha_pattern", json!({"q_proj": "x"}), &["string"]);
    assert_key_error("target_modules", json!("(q_proj"), &["parenthesis"]);
    assert_key_error("target_modules", json!(7), &["`7`"]);
    assert_key_error("target_modules", json!(["k_proj"]), &["up_proj"]);
    assert_key_error("layers_to_transform", json!("x"), &["not a list of numbers"]);
    assert_key_error("layer_replication", json!([[0, 3]]), &["2 layers"]);
    assert_key_error("layer_replication", json!([[1, 1]]), &["1 to 1"]);
    assert_key_error("layer_replication", json!([[0, 1, 2]]), &["[from, to]"]);
    assert_key_error("layer_replication", json!(vec![[0, 2]; 4000]), &["8000"]);
    assert_key_error("alora_invocation_tokens", json!([1, 2]), &["after these tokens"]);
    assert_key_error("arrow_config", json!({"top_k": 3}), &["per token"]);
    assert_key_error("kasa_config", json!({"beta": 0.1}), &["smallest singular values"]);
    assert_key_error("megatron_config", json!({"x": 1}), &["Megatron"]);
    assert_key_error("target_parameters", json!(["mlp.experts.down_proj"]), &["parameters"]);
    assert_key_error("use_bdlora", json!({"nblocks": 2}), &["block-diagonal"]);
    assert_key_error("use_qalora", json!(true), &["GPTQ"]);
    assert_key_error("use_something_new", json!({"deep": [1]}), &["{\"deep\":[1]}", "unknown"]);
    assert_key_error("scale_of_tomorrow", json!(2), &["`2`"]);
    assert_key_error("ensure_weight_tying", json!("yes"), &["true or false"]);
    assert_key_error("trainable_token_indices", json!("x"), &["token ids"]);
}

#[test]
fn keys_without_effect_are_ignored() {
    let plain = apply_adapter("untied", &data("adapters/layers")).unwrap();
    let edits: [(&str, Value); 19] = [
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!("orthogonal")),
        ("init_lora_weights", json!("mica")),
        ("init_lora_weights", json!(false)),
        ("init_lora_weights", json!(null)),
        // As in PEFT, which sets it to false for these layers.
        ("fan_in_fan_out", json!(true)),
        ("lora_dropout", json!(0.1)),
        ("runtime_config", json!({"ephemeral_gpu_offload": true})),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("eva_config", json!({"rho": 2.0})),
        ("velora_config", json!({"num_groups": 4})),
        ("monteclora_config", json!({"num_samples": 8})),
        ("peft_version", json!("0.99.0.dev0")),
        ("task_type", json!("SEQ_CLS")),
        ("auto_mapping", json!({"base_model_class": "X", "parent_library": "y"})),
        ("use_something_new", json!(null)),
        ("use_something_new", json!({})),
        ("use_something_new", json!(false)),
    ];
    for (key, value) in edits {
        let dir = edited("layers", |config| config[key] = value.clone(), |_| {});
        let source = apply_adapter("untied", dir.path()).unwrap();
        assert!(max_difference(&logits(&source), &logits(&plain)) == 0.0, "{key}={value}");
    }
}

#[test]
fn equivalent_tensor_names_are_recognized() {
    let plain = apply_adapter("untied", &data("adapters/layers")).unwrap();
    let renamed: [&dyn Fn(&str) -> String; 6] = [
        &|key| key.replace("base_model.model.", ""),
        &|key| key.replace("base_model.model.model.", ""),
        &|key| format!("_orig_mod.{key}"),
        &|key| {
            key.replace("base_model.model.", "base_model.model._orig_mod.")
                .replace("self_attn.", "self_attn._fsdp_wrapped_module.")
        },
        &|key| format!("module.{}", key.replace(".weight", ".default.weight")),
        &|key| key.replace(".weight", ".poet.weight"),
    ];
    for (i, rename) in renamed.iter().enumerate() {
        let dir = edited(
            "layers",
            |_| {},
            |all| *all = all.drain().map(|(key, t)| (rename(&key), t)).collect(),
        );
        let source = apply_adapter("untied", dir.path()).unwrap();
        assert!(max_difference(&logits(&source), &logits(&plain)) == 0.0, "{i}");
        let notes = source.notes().join("; ");
        assert_eq!(notes.contains("removed `"), (2..5).contains(&i), "{notes}");
    }
    // Modules that the configuration excludes are ignored with a note.
    let dir = edited("layers", |config| config["target_modules"] = json!(["q_proj"]), |_| {});
    let source = apply_adapter("untied", dir.path()).unwrap();
    assert!(max_difference(&logits(&source), &logits(&plain)) > 1e-3);
    assert!(
        source.notes()[0].contains("1 modules") && source.notes()[0].contains("up_proj"),
        "{:?}",
        source.notes()
    );
}

#[test]
fn a_misplaced_adapter_has_a_hint() {
    let error = |spec: &str| {
        let error = Source::open(spec).unwrap_err();
        (error.to_string(), error.hint().unwrap())
    };
    let (text, hint) = error(&model_path("pissa"));
    assert!(
        text.contains("it is an adapter") && hint.contains("load tiny/untied+"),
        "{text} {hint}"
    );
    let (text, hint) = error(&with("untied", &["tied"]));
    assert!(
        text.contains("it is a model, not an adapter") && hint.contains("BASE+ADAPTER"),
        "{text} {hint}"
    );
    // An adapter next to a model configuration, as some trainers save it, is an adapter.
    let dir = edited("layers", |_| {}, |_| {});
    fs::copy(data("adapters/untied/config.json"), dir.path().join("config.json")).unwrap();
    let (text, _) = error(&dir.path().display().to_string());
    assert!(text.contains("it is an adapter"), "{text}");
    // An adapter for another base.
    let (text, hint) = error(&with("half", &["biases"]));
    assert!(
        text.contains("no tensor `model.layers.0.self_attn.k_proj.bias`")
            && hint.contains("tiny/untied"),
        "{text} {hint}"
    );
    let dir = edited(
        "layers",
        |_| {},
        |all| {
            *all = all
                .drain()
                .map(|(key, t)| (key.replace("model.model", "model.model.language_model"), t))
                .collect();
        },
    );
    let (text, hint) = error(&format!("{}+{}", model_path("untied"), dir.path().display()));
    assert!(text.contains("multimodal") && hint.contains("tiny/untied"), "{text} {hint}");
    // Pickled weights, no weights, and two adapters in one file.
    let dir = edited("layers", |_| {}, |_| {});
    fs::rename(dir.path().join("adapter_model.safetensors"), dir.path().join("none")).unwrap();
    let spec = format!("{}+{}", model_path("untied"), dir.path().display());
    let (text, hint) = error(&spec);
    assert!(
        text.contains("no `adapter_model.safetensors`") && hint.contains("PEFT"),
        "{text} {hint}"
    );
    let dir = edited(
        "layers",
        |_| {},
        |all| {
            let second = all
                .iter()
                .map(|(key, t)| (key.replace(".weight", ".b.weight"), t.clone()))
                .collect::<Vec<_>>();
            *all = all
                .drain()
                .map(|(key, t)| (key.replace(".weight", ".a.weight"), t))
                .chain(second)
                .collect();
        },
    );
    let (text, hint) = error(&format!("{}+{}", model_path("untied"), dir.path().display()));
    assert!(
        text.contains("several adapters: a, b") && hint.contains("selected_adapters"),
        "{text} {hint}"
    );
}

#[test]
fn a_mismatched_vocabulary_has_a_hint() {
    let error = |dir: TempDir| {
        let error = apply_adapter("untied", dir.path()).unwrap_err();
        format!("{error} hint: {}", error.hint().unwrap())
    };
    let grown = opened("resized");
    assert_eq!(grown.architecture().unwrap().vocabulary, 26);
    assert!(grown.notes()[0].contains("26 rows; the base has 24"), "{:?}", grown.notes());
    let without = |name: &str, part: &str| {
        edited(name, |_| {}, |all| all.retain(|key, _| !key.contains(part)))
    };
    let text = error(without("resized", "lm_head"));
    assert!(
        text.contains("26 rows for the embedding, but the output layer has 24")
            && text.contains("save_embedding_layers"),
        "{text}"
    );
    let text = error(without("resized-low-rank", "base_layer"));
    assert!(text.contains("resize_token_embeddings(27)"), "{text}");
    let text = error(edited(
        "tokens",
        |config| config["trainable_token_indices"] = json!([7, 24]),
        |_| {},
    ));
    assert!(text.contains("token `24`") && text.contains("resize_token_embeddings(25)"), "{text}");
    let text =
        error(edited("tokens", |config| config["trainable_token_indices"] = json!([7, 7]), |_| {}));
    assert!(text.contains("twice"), "{text}");
    let text =
        error(edited("tokens", |config| config["trainable_token_indices"] = json!([7]), |_| {}));
    assert!(text.contains("1 tokens") && text.contains("[2, 16]"), "{text}");
    let text =
        error(edited("tokens", |config| config["trainable_token_indices"] = json!(null), |_| {}));
    assert!(text.contains("`trainable_token_indices`"), "{text}");
    // A bias without the key, or without a bias in the base.
    let text = error(edited("lora-bias", |config| config["lora_bias"] = json!(false), |_| {}));
    assert!(text.contains("`lora_bias`"), "{text}");
    let error = apply_adapter("half", &data("adapters/lora-bias")).unwrap_err();
    assert!(
        error.to_string().contains("lora_bias") && error.to_string().contains("not in the base"),
        "{error:?}"
    );
}

/// The config.json and tensors of the baked result.
fn baked(load: &str, verbs: &str) -> (Value, HashMap<String, Tensor>) {
    let dir = tempfile::tempdir().unwrap();
    let (replies, ok) = crate::common::json(dir.path(), &format!("load {load}; {verbs}"));
    assert!(ok, "{replies:?}");
    let out = dir.path().join("out");
    let tensors = safetensors::load(out.join("model.safetensors"), &Device::Cpu).unwrap();
    (serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap(), tensors)
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

#[test]
fn a_different_output_layer_unties_and_an_equal_one_does_not() {
    for case in [
        "head-saved",
        "head-low-rank",
        "head-pissa",
        "embedding-saved",
        "embedding-low-rank",
        "both-saved",
        "tokens-of-head",
    ] {
        let source = opened(case);
        assert!(!source.architecture().unwrap().tied, "{case}");
        assert!(
            source.notes().iter().any(|note| note.contains("untied")),
            "{case}: {:?}",
            source.notes()
        );
        let (config, tensors) = baked(&with("tied", &[case]), "merge passthrough out");
        assert_eq!(config["tie_word_embeddings"], false, "{case}");
        let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
        assert!(max_difference(&tensors[HEAD], &weights.weight(HEAD).unwrap()) == 0.0, "{case}");
    }
    for case in ["kept-low-rank", "kept-saved", "tokens-tied", "resized-tied"] {
        assert!(opened(case).architecture().unwrap().tied, "{case}");
        let (config, tensors) = baked(&with("tied", &[case]), "merge passthrough out");
        assert!(config["tie_word_embeddings"] == true && !tensors.contains_key(HEAD), "{case}");
    }
    // The same for a checkpoint without an adapter.
    let dir = tempfile::tempdir().unwrap();
    fs::copy(data("adapters/tied/config.json"), dir.path().join("config.json")).unwrap();
    let file = dir.path().join("model.safetensors");
    let mut tensors =
        safetensors::load(data("adapters/tied/model.safetensors"), &Device::Cpu).unwrap();
    let save = |tensors: &HashMap<String, Tensor>| safetensors::save(tensors, &file).unwrap();
    let spec = dir.path().display().to_string();
    tensors.insert(HEAD.into(), tensors[EMBEDDING].clone());
    save(&tensors);
    let tied = Source::open(&spec).unwrap();
    assert!(tied.architecture().unwrap().tied && tied.notes().is_empty(), "{:?}", tied.notes());
    // Equal values of different dtypes are equal.
    tensors.insert(EMBEDDING.into(), tensors[EMBEDDING].to_dtype(DType::BF16).unwrap());
    tensors.insert(HEAD.into(), tensors[EMBEDDING].to_dtype(DType::F32).unwrap());
    save(&tensors);
    assert!(Source::open(&spec).unwrap().architecture().unwrap().tied);
    let other = (&tensors[HEAD] * 2.0).unwrap();
    tensors.insert(HEAD.into(), other.clone());
    save(&tensors);
    let source = Source::open(&spec).unwrap();
    assert!(!source.architecture().unwrap().tied);
    assert!(
        max_difference(
            &logits(&source),
            &(logits(&Source::open(&model_path("tied")).unwrap()) * 2.0).unwrap()
        ) > 1e-3
    );
    let (config, written) = baked(&spec, "merge passthrough out dtype=f32");
    assert!(
        config["tie_word_embeddings"] == false && max_difference(&written[HEAD], &other) == 0.0
    );
    // An unsupported family.
    fs::write(
        dir.path().join("config.json"),
        r#"{"model_type": "novel", "tie_word_embeddings": true}"#,
    )
    .unwrap();
    let (config, written) = baked(&spec, "merge passthrough out dtype=f32");
    assert!(
        config["tie_word_embeddings"] == false && max_difference(&written[HEAD], &other) == 0.0
    );
}

#[test]
fn tied_and_untied_sources_can_be_merged() {
    let load = format!("a={} b={}", model_path("tied"), with("tied", &["head-saved"]));
    let head = |spec: &str, name: &str| {
        let source = Source::open(spec).unwrap();
        SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }
            .weight(name)
            .unwrap()
    };
    let (own, embedding) =
        (head(&with("tied", &["head-saved"]), HEAD), head(&model_path("tied"), EMBEDDING));
    let mean = ((&own + &embedding).unwrap() / 2.0).unwrap();
    for verbs in ["merge linear out", "wrap; bake out"] {
        let (config, tensors) = baked(&load, verbs);
        assert_eq!(config["tie_word_embeddings"], false);
        assert!(
            max_difference(&tensors[HEAD], &mean) < 1e-7
                && max_difference(&tensors[EMBEDDING], &embedding) < 1e-7,
            "{verbs}"
        );
    }
    // In either order, also with the base's task vectors, and with extended vocabularies.
    for verbs in ["merge task_arithmetic out", "merge ties density=1 out"] {
        let (config, tensors) = baked(&format!("base={} {load}", model_path("tied")), verbs);
        assert!(config["tie_word_embeddings"] == false && tensors.contains_key(HEAD), "{verbs}");
    }
    let (config, tensors) =
        baked(&format!("c={} {load}", with("tied", &["resized-tied"])), "merge linear out");
    assert_eq!(
        (&config["vocab_size"], tensors[HEAD].dims(), tensors[EMBEDDING].dims()),
        (&json!(26), &[26, 16][..], &[26, 16][..])
    );
    // The result is tied if all sources are.
    let models = load_all([model_path("tied"), with("tied", &["tokens-tied"])]);
    assert!(models.source("tied").unwrap().architecture().unwrap().tied);
    let more = models.and_load([with("tied", &["head-saved"])]).unwrap();
    let tied = more.source("tied").unwrap();
    assert!(
        !tied.architecture().unwrap().tied
            && tied.notes()[0].contains("tied, but another source is not"),
        "{:?}",
        tied.notes()
    );
    assert!(
        max_difference(&logits(tied), &logits(&Source::open(&model_path("tied")).unwrap())) == 0.0
    );
}

fn load_all(specs: [String; 2]) -> Models {
    dam_prelude::load(specs).unwrap()
}

/// Copies the built-in model `math` to `to`, with or without its chat template, and makes an
/// adapter for it in `adapter`.
fn talking(to: &Path, adapter: &Path, with_template: bool) {
    let math = Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude/builtin/math");
    fs::create_dir_all(to).unwrap();
    fs::create_dir_all(adapter).unwrap();
    for entry in fs::read_dir(&math).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let mut settings: Value =
        serde_json::from_slice(&fs::read(math.join("tokenizer_config.json")).unwrap()).unwrap();
    settings.as_object_mut().unwrap().remove("chat_template");
    if !with_template {
        fs::write(to.join("tokenizer_config.json"), settings.to_string()).unwrap();
    }
    let config: Value =
        serde_json::from_slice(&fs::read(math.join("config.json")).unwrap()).unwrap();
    let hidden = config["hidden_size"].as_u64().unwrap() as usize;
    let name = "base_model.model.model.layers.0.self_attn.q_proj";
    let zero = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let tensors = HashMap::from([
        (format!("{name}.lora_A.weight"), zero((2, hidden))),
        (format!("{name}.lora_B.weight"), zero((hidden, 2))),
    ]);
    safetensors::save(&tensors, adapter.join("adapter_model.safetensors")).unwrap();
    fs::write(
        adapter.join("adapter_config.json"),
        r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4}"#,
    )
    .unwrap();
}

#[test]
fn an_adapter_uses_its_own_tokenizer_and_template() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    talking(&at("bare"), &at("tuned"), false);
    talking(&at("chat"), &at("unused"), true);
    let (bare, chat) = (at("bare").display().to_string(), at("chat").display().to_string());
    let tuned = format!("{bare}+{}", at("tuned").display());
    assert!(Source::open(&tuned).unwrap().chat_template().is_none());
    // A complete tokenizer.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(at("chat").join(name), at("tuned").join(name)).unwrap();
    }
    let (expected, found) = (Source::open(&chat).unwrap(), Source::open(&tuned).unwrap());
    assert!(
        expected.chat_template().is_some() && found.chat_template() == expected.chat_template()
    );
    let score = |spec: &str| {
        let (replies, ok) = crate::common::json(
            dir.path(),
            &format!("load x={spec} y={bare}; wrap; eval builtin:math-heldout --all"),
        );
        assert!(ok, "{replies:?}");
        replies.last().unwrap()["scores"]["models"]
            .as_array()
            .map_or(Value::Null, |all| all[0].clone())
    };
    assert_eq!(score(&tuned), score(&chat));
    let (replies, ok) =
        crate::common::json(dir.path(), &format!("load {tuned}; merge passthrough out"));
    assert!(ok, "{replies:?}");
    assert_eq!(
        fs::read(at("out/tokenizer_config.json")).unwrap(),
        fs::read(at("tuned/tokenizer_config.json")).unwrap()
    );
    // It has no template, and the base's is not used.
    let bare_settings = fs::read(at("bare/tokenizer_config.json")).unwrap();
    fs::write(at("tuned/tokenizer_config.json"), &bare_settings).unwrap();
    fs::write(at("chat/chat_template.jinja"), "of the base").unwrap();
    let on_chat = format!("{chat}+{}", at("tuned").display());
    assert!(Source::open(&on_chat).unwrap().chat_template().is_none());
    // A template alone, or settings with one, keep the base's tokenizer.
    fs::remove_file(at("tuned/tokenizer.json")).unwrap();
    assert_eq!(Source::open(&on_chat).unwrap().chat_template(), Some("of the base"));
    let settings: Value = serde_json::from_slice(&bare_settings).unwrap();
    let mut own = settings.clone();
    own["chat_template"] = json!("of the settings");
    fs::write(at("tuned/tokenizer_config.json"), own.to_string()).unwrap();
    assert_eq!(Source::open(&on_chat).unwrap().chat_template(), Some("of the settings"));
    fs::write(at("tuned/chat_template.jinja"), "of the adapter").unwrap();
    let source = Source::open(&on_chat).unwrap();
    assert!(source.chat_template() == Some("of the adapter") && source.tokenizer().is_some());
    // Errors name the corrupt file.
    fs::write(at("tuned/tokenizer.json"), "{").unwrap();
    let text = Source::open(&on_chat).unwrap_err().to_string();
    assert!(text.contains(&at("tuned/tokenizer.json").display().to_string()), "{text}");
}

#[test]
fn adapted_sources_train_and_can_be_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids.jsonl");
    fs::write(&ids, "{\"input_ids\": [1, 5, 9, 3, 7, 2]}\n{\"input_ids\": [4, 4, 8, 1, 6, 2]}\n")
        .unwrap();
    let adapters = ["pissa", "dora", "olora", "tokens"];
    let mut models = dam_prelude::load(adapters.map(|name| with("untied", &[name]))).unwrap();
    for name in adapters {
        models.data(name, &ids.display().to_string()).unwrap();
    }
    let dam = models.wrap(dam_prelude::Columns::default()).unwrap();
    dam.train(2).unwrap();
    dam.save(dir.path().join("s.dam")).unwrap();
    let again = dam_prelude::Dam::open(dir.path().join("s.dam")).unwrap();
    assert_eq!(dam.step().unwrap().total, again.step().unwrap().total);
}

/// `adapter_model.bin` may be a PyTorch pickle, or safetensors under that name.
#[test]
fn weights_may_be_in_a_bin_file() {
    let plain = data("adapters/layers");
    let expected = apply_adapter("untied", &plain).unwrap();
    for from in [data("adapters/layers.bin"), plain.join("adapter_model.safetensors")] {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(plain.join("adapter_config.json"), dir.path().join("adapter_config.json"))
            .unwrap();
        fs::copy(&from, dir.path().join("adapter_model.bin")).unwrap();
        let found = apply_adapter("untied", dir.path()).unwrap();
        for spec in expected.architecture().unwrap().tensors() {
            let weight = |source| {
                SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 }
                    .weight(&spec.name)
                    .unwrap()
            };
            assert_eq!(
                max_difference(&weight(&found), &weight(&expected)),
                0.0,
                "{}: {}",
                from.display(),
                spec.name
            );
        }
    }
    let error = {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(plain.join("adapter_config.json"), dir.path().join("adapter_config.json"))
            .unwrap();
        fs::write(dir.path().join("adapter_model.bin"), "not weights").unwrap();
        apply_adapter("untied", dir.path()).unwrap_err()
    };
    assert!(
        error.to_string().contains("adapter_model.bin")
            && error.hint().unwrap().contains("torch.load"),
        "{error:?}"
    );
}
