//! A merge baked as a LoRA adapter of its base: exact if its rank allows, otherwise with the
//! retained share, and readable by PEFT. `tests/data/adapter/make.py` baked these merges, had PEFT
//! merge the adapters into their bases, and computed the exact shares with numpy.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::common::{copy_checkpoint, data, golden, json};
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::model::{SourceWeights, Weights};
use dam_prelude::{Bake, Columns, Dam, Error, Models, load};
use serde_json::Value;

fn tensors(file: &Path) -> HashMap<String, Tensor> {
    safetensors::load(file, &Device::Cpu).unwrap()
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    let a = a.to_dtype(DType::F32).unwrap();
    (a - b.to_dtype(DType::F32).unwrap())
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

/// PEFT's merge of the adapter `name`, by tensor.
fn expected(name: &str) -> HashMap<String, Tensor> {
    let all = tensors(&data("adapter/expected.safetensors"));
    let of = |(key, value): (String, Tensor)| {
        Some((key.strip_prefix(&format!("{name}/"))?.to_owned(), value))
    };
    let found: HashMap<String, Tensor> = all.into_iter().filter_map(of).collect();
    assert!(found.len() > 3, "{name}");
    found
}

/// Models of the test data: `NAME=` and paths with `+` between.
fn models(sources: &[&str]) -> Models {
    let place = |source: &&str| {
        let (name, places) =
            source.split_once('=').map_or(("", *source), |(name, places)| (name, places));
        let places: Vec<String> =
            places.split('+').map(|place| data(place).display().to_string()).collect();
        format!("{name}{}{}", if name.is_empty() { "" } else { "=" }, places.join("+"))
    };
    load(sources.iter().map(place)).unwrap()
}

fn adapter(rank: usize) -> Bake {
    Bake { adapter: Some(rank), ..Bake::default() }
}

/// The adapters of one base, with ranks up to 4.
const EXACT: [&str; 2] = ["a=golden/model0+lora/plain", "b=golden/model0+lora/patterns"];

#[test]
fn adapters_of_one_base_merge_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let (out, whole) = (dir.path().join("adapter"), dir.path().join("whole"));
    let merged = models(&EXACT).merge_named("linear", &[]).unwrap();
    let kept = merged.bake_with(&out, &adapter(8)).unwrap().retained.unwrap();
    assert!(kept.share > 1.0 - 1e-9 && kept.rank == 8, "{kept:?}");
    assert!(kept.to_string().contains("rank 8 retains 100%"), "{kept}");
    merged.bake(&whole).unwrap();
    let (whole, peft) = (tensors(&whole.join("model.safetensors")), expected("exact"));
    // Read back here, baked as a full checkpoint, and merged by PEFT.
    let back = Source::open(&format!("{}+{}", golden("model0").display(), out.display())).unwrap();
    let back = SourceWeights { source: &back, device: &Device::Cpu, dtype: DType::F32 };
    for (name, weight) in &whole {
        let worst = apart(weight, &back.weight(name).unwrap());
        assert!(worst < 2e-6, "{name}: {worst:e}");
    }
    for (name, weight) in &peft {
        let worst = apart(weight, &whole[name]);
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
    let config = read(&out.join("adapter_config.json"));
    assert_eq!((&config["peft_type"], &config["task_type"]), (&"LORA".into(), &"CAUSAL_LM".into()));
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_u64()), (Some(8), Some(8)));
    assert_eq!(config["base_model_name_or_path"], golden("model0").display().to_string());
    let targets: Vec<&str> =
        config["target_modules"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        targets,
        ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    );
    // `patterns` has no k_proj, so the sum has rank 4 there.
    assert_eq!(config["rank_pattern"]["model.layers.0.self_attn.k_proj"], 4);
    assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
    assert!(config["modules_to_save"].is_null());
}

/// Differences of full rank: the retained share equals that of the exact decomposition.
#[test]
fn retained_shares_agree_with_numpy() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("adapter");
    let models = models(&["base=golden/base", "golden/model0", "golden/model1"]);
    let merged = models.merge_named("task_arithmetic", &[]).unwrap();
    let kept = merged.bake_with(&out, &adapter(3)).unwrap().retained.unwrap();
    let shares = read(&data("adapter/shares.json"));
    let close = |found: f64, expected: &Value| (found - expected.as_f64().unwrap()).abs() < 1e-5;
    assert!(close(kept.share, &shares["truncated"]), "{} {}", kept.share, shares["truncated"]);
    assert!(kept.tensors.len() >= 14);
    for (name, rank, share) in &kept.tensors {
        assert!(
            *rank == 3 && close(*share, &shares[format!("truncated/{name}")]),
            "{name}: {share}"
        );
    }
    let least = kept.tensors.iter().map(|(_, _, share)| *share).fold(1.0, f64::min);
    assert_eq!(kept.lowest().unwrap().1, least);
    let back = Source::open(&format!("{}+{}", golden("base").display(), out.display())).unwrap();
    let back = SourceWeights { source: &back, device: &Device::Cpu, dtype: DType::F32 };
    for (name, weight) in expected("truncated") {
        let worst = apart(&weight, &back.weight(&name).unwrap());
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("library_name: peft") && card.contains(&kept.to_string()), "{card}");
}

/// Norms and the tied embedding are stored whole, biases as themselves.
#[test]
fn norms_biases_and_tied_embeddings_are_included() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("adapter");
    let merged = models(&["base=families/qwen2-bias-tied", "adapter/fine"])
        .merge_named("passthrough", &[])
        .unwrap();
    let kept = merged.bake_with(&out, &adapter(2)).unwrap().retained.unwrap();
    assert!(kept.share > 1.0 - 1e-9, "{kept:?}");
    let (stored, fine, peft) = (
        tensors(&out.join("adapter_model.safetensors")),
        tensors(&data("adapter/fine/model.safetensors")),
        expected("biased"),
    );
    let base = tensors(&data("families/qwen2-bias-tied/model.safetensors"));
    for (name, weight) in &fine {
        let (module, kind) = name.rsplit_once('.').unwrap();
        let module = format!("base_model.model.{module}");
        let made = match stored.get(&format!("{module}.lora_A.weight")) {
            Some(a) if kind == "weight" => {
                let product = stored[&format!("{module}.lora_B.weight")].matmul(a).unwrap();
                (base[name].to_dtype(DType::F32).unwrap() + product).unwrap()
            }
            Some(_) => stored[&format!("{module}.base_layer.bias")].clone(),
            None => stored[&format!("{module}.{kind}")].clone(),
        };
        let worst = apart(&made, weight);
        assert!(worst < 1e-5, "{name}: {worst:e}");
        if let Some(peft) = peft.get(name) {
            assert!(apart(peft, weight) < 1e-5, "{name}");
        }
    }
    assert_eq!(
        apart(&stored["base_model.model.lm_head.weight"], &fine["model.embed_tokens.weight"]),
        0.0
    );
    assert!(apart(&peft["lm_head.weight"], &fine["model.embed_tokens.weight"]) < 1e-6);
    let config = read(&out.join("adapter_config.json"));
    assert_eq!(config["bias"], "all");
    let saved = config["modules_to_save"].as_array().unwrap();
    assert!(
        ["lm_head", "model.embed_tokens", "model.norm"]
            .iter()
            .all(|name| saved.contains(&(*name).into())),
        "{saved:?}"
    );
}

/// The initial coefficients sum to 1, so a merge of adapters differs from the base by the adapters
/// only. After training they do not, and a note reports it.
#[test]
fn trained_merges_can_be_written_as_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let mut models = models(&EXACT);
    for (i, name) in ["a", "b"].iter().enumerate() {
        models.data(name, &golden(&format!("data{i}.jsonl")).display().to_string()).unwrap();
    }
    let dam: Dam = models.wrap(Columns::default()).unwrap();
    let start = dam.bake_with(dir.path().join("start"), &adapter(8)).unwrap().retained.unwrap();
    assert!(start.share > 1.0 - 1e-9, "{start:?}");
    dam.train(3).unwrap();
    let written = dam.bake_with(dir.path().join("trained"), &adapter(8)).unwrap();
    let trained = written.retained.clone().unwrap();
    assert!(trained.share < 1.0 - 1e-9 && trained.share > 0.5, "{trained:?}");
    assert!(written.to_string().contains("; lowest at `"), "{written}");
    // A higher rank retains more; full rank retains everything.
    let more = dam.bake_with(dir.path().join("more"), &adapter(16)).unwrap().retained.unwrap();
    let all = dam.bake_with(dir.path().join("all"), &adapter(64)).unwrap().retained.unwrap();
    assert!(more.share > trained.share && all.share > 1.0 - 1e-9, "{more:?} {all:?}");
    assert_eq!(all.rank, 32);
}

#[test]
fn verbs_write_and_load_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copy_checkpoint("model0", &model);
    for (name, text) in [
        ("tokenizer.model", "tokens"),
        ("LICENSE", "a licence"),
        ("preprocessor_config.json", "{}"),
    ] {
        fs::write(model.join(name), text).unwrap();
    }
    let lora = data("lora").display().to_string();
    let sources = format!("load a=model+{lora}/plain b=model+{lora}/patterns");
    let script = format!(
        "{sources}; merge linear one as=adapter rank=8; merge linear; bake two as=adapter rank=2 dtype=bf16; \
         bake two as=adapter --force; load c=model+two; wrap; bake three as=adapter rank=4; export done.rs"
    );
    let (replies, ok) = json(dir.path(), &script);
    assert!(ok, "{replies:?}");
    assert_eq!(
        (&replies[1]["adapter"]["rank"], &replies[3]["adapter"]["rank"]),
        (&8.into(), &2.into())
    );
    assert!(replies[1]["adapter"]["share"].as_f64().unwrap() > 1.0 - 1e-9);
    assert!(replies[3]["adapter"]["share"].as_f64().unwrap() < 1.0 - 1e-6, "{}", replies[3]);
    assert!(replies[3]["adapter"]["least"]["tensor"].as_str().unwrap().ends_with(".weight"));
    assert_eq!(replies[4]["adapter"]["rank"], 8, "16 where that is needed");
    // Tokens and licence are copied, and the processor is the base's.
    let copied = serde_json::json!(["tokenizer.model", "LICENSE"]);
    assert_eq!(replies[4]["copied"], copied);
    assert_eq!(fs::read_dir(dir.path().join("two")).unwrap().count(), 5);
    let rust = fs::read_to_string(dir.path().join("done.rs")).unwrap();
    assert!(rust.contains("adapter: Some(4)") && rust.contains("adapter: Some(8)"), "{rust}");
    let two = tensors(&dir.path().join("one/adapter_model.safetensors"));
    assert!(two.values().all(|t| t.dtype() == DType::F32));
}

#[track_caller]
fn refused(models: &Models, options: &Bake, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let merged = models.merge_named("linear", &[]).unwrap();
    let error = merged.bake_with(dir.path().join("out"), options).unwrap_err();
    let text = format!("{error:?}");
    assert!(words.iter().all(|word| text.contains(word)) && text.contains("hint: "), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn inexpressible_adapters_are_rejected() {
    refused(
        &models(&["golden/model0", "golden/model1"]),
        &adapter(4),
        &["base model", "load base=MODEL"],
    );
    let two = models(&["a=golden/model0+lora/plain", "b=golden/model1+lora/plain"]);
    refused(&two, &adapter(4), &["different base models", "model0", "model1"]);
    refused(&models(&EXACT), &adapter(0), &["rank", "at least 1"]);
    let on_adapter = models(&["base=golden/model0+lora/plain", "golden/model0", "golden/model1"]);
    refused(&on_adapter, &adapter(4), &["with an adapter", "a base without one"]);
    let same = models(&["base=golden/model0", "a=golden/model0", "b=golden/model0"]);
    refused(&same, &adapter(4), &["equals its base"]);
    let dir = tempfile::tempdir().unwrap();
    let merged = models(&EXACT).merge_named("linear", &[]).unwrap();
    let taken =
        merged.bake_with(data("lora/plain"), &Bake { force: true, ..adapter(4) }).unwrap_err();
    assert!(taken.to_string().contains("is the source"), "{taken:?}");
    merged.bake_with(dir.path().join("out"), &adapter(4)).unwrap();
    assert!(matches!(
        merged.bake_with(dir.path().join("out"), &adapter(4)).unwrap_err(),
        Error::Exists { .. }
    ));
}

#[test]
fn contradictory_keys_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let says = |verbs: &str, words: &[&str]| {
        let (replies, ok) =
            json(dir.path(), &format!("load builtin:japanese builtin:math; {verbs}"));
        let last = replies.last().unwrap();
        let text = format!("{} {}", last["error"], last["hint"]);
        assert!(!ok && words.iter().all(|word| text.contains(word)), "{text}");
    };
    says("wrap; bake out rank=8", &["rank=8", "as=adapter"]);
    says("merge linear out rank=8", &["rank=8", "as=adapter"]);
    says("merge linear as=adapter", &["`as`", "needs an output directory"]);
    says("merge linear out as=adaptor", &["adaptor", "adapter"]);
    says("merge linear out as=adapter rank=0", &["`0`", "an integer of at least 1"]);
    says("merge linear out as=adapter shard=1GB", &["shard", "a single file"]);
    says("merge linear out as=adapter", &["base"]);
}
