//! Regression tests: adapters, checkpoints, recipes and data as users have them. The inputs are
//! small and synthetic; the expected values come from PEFT, transformers and mergekit.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::data;
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::data::Dataset;
use dam_prelude::{Bake, Columns, Models, load};
use serde_json::Value;

/// The path of a case's file or directory.
fn case_path(name: &str) -> String {
    data("cases").join(name).display().to_string()
}

/// `BASE+ADAPTER`.
fn with(base: &str, adapter: &str) -> String {
    format!(
        "{}+{}",
        case_path(&format!("models/{base}")),
        case_path(&format!("adapters/{adapter}"))
    )
}

fn tensors(directory: &Path) -> HashMap<String, Tensor> {
    safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap()
}

fn config(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap()
}

/// The first value of a tensor.
fn first(tensor: &Tensor) -> f32 {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().get(0).unwrap().to_scalar().unwrap()
}

/// Runs a recipe of the cases and bakes the result.
fn bake_recipe(name: &str, directory: &Path) -> (PathBuf, Vec<String>) {
    let merged = Models::default().merge_recipe(case_path(&format!("models/{name}.yml"))).unwrap();
    let written = merged.bake(directory.join(name)).unwrap();
    (written.path, merged.report().notes)
}

/// Bakes a single source in f32.
fn bake_source(spec: &str, directory: &Path) -> PathBuf {
    let merged = load([spec]).unwrap().merge_named("passthrough", &[]).unwrap();
    let options = Bake { dtype: Some("f32".into()), ..Bake::default() };
    merged.bake_with(directory.join("out"), &options).unwrap().path
}

#[test]
fn adapters_match_peft() {
    let dir = tempfile::tempdir().unwrap();
    let pissa = bake_source(&with("base", "pissa"), dir.path());
    let value = first(&tensors(&pissa)["model.layers.0.self_attn.q_proj.weight"]);
    assert!((value + 0.00937).abs() < 1e-5, "{value}");
    let dir = tempfile::tempdir().unwrap();
    let tied = bake_source(&with("tied0", "tiedsave"), dir.path());
    let value = first(&tensors(&tied)["lm_head.weight"]);
    assert!((value - 0.0478).abs() < 1e-4, "{value}");
    assert_eq!(config(&tied)["tie_word_embeddings"], false);
    load([with("base", "dora")]).unwrap();
    load([with("base", "binad")]).unwrap();
    // The adapter has a larger vocabulary.
    assert_eq!(load([with("base", "resized")]).unwrap().report().0[0].vocabulary, 302);
    let error = load([case_path("adapters/pissa")]).unwrap_err();
    assert!(error.hint().unwrap().contains("did you mean BASE+ADAPTER"), "{error:?}");
}

/// An adapter's tokenizer and template replace the base's.
#[test]
fn an_adapter_brings_its_tokenizer_and_template() {
    let dir = tempfile::tempdir().unwrap();
    let loss = |spec: String| {
        let mut models =
            load([format!("x={spec}"), format!("y={}", case_path("models/basenot"))]).unwrap();
        for name in ["x", "y"] {
            models.data(name, &case_path("data/d1.jsonl")).unwrap();
        }
        let dam = models.wrap(Columns::default()).unwrap();
        let board = dam.scoreboard(&[case_path("data/d1.jsonl")]).unwrap();
        (board.row("x").unwrap().mean_loss(), dam)
    };
    let (adapted, dam) = loss(with("basenot", "alltok"));
    assert!((adapted - 5.93).abs() < 0.005, "{adapted}");
    let out = dam.bake(dir.path().join("out")).unwrap().path;
    let text = fs::read_to_string(out.join("tokenizer_config.json")).unwrap();
    assert!(text.contains("<|im_start|>") || out.join("chat_template.jinja").is_file(), "{text}");
    // A marked base has neither, and does not come before the sources.
    let [x, y] = ["x", "y"].map(|name| format!("{name}={}", with("basenot", "alltok")));
    let base = format!("base={}", case_path("models/basenot"));
    let models = load([base, x, y]).unwrap();
    let merged = models.merge_named("task_arithmetic", &[]).unwrap();
    let arithmetic = merged.bake(dir.path().join("arithmetic")).unwrap().path;
    for name in ["tokenizer_config.json", "tokenizer.json"] {
        assert_eq!(fs::read(arithmetic.join(name)).unwrap(), fs::read(out.join(name)).unwrap());
    }
}

#[test]
fn side_files_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let merged = load([case_path("models/Aaux"), case_path("models/B")])
        .unwrap()
        .merge_named("linear", &[])
        .unwrap();
    let out = merged.bake(dir.path().join("out")).unwrap().path;
    for entry in fs::read_dir(case_path("models/Aaux")).unwrap().flatten() {
        let name = entry.file_name();
        if !["config.json", "model.safetensors"].contains(&name.to_str().unwrap()) {
            assert_eq!(
                fs::read(entry.path()).unwrap(),
                fs::read(out.join(&name)).unwrap(),
                "{name:?}"
            );
        }
    }
}

#[test]
fn recipes_match_mergekit() {
    let dir = tempfile::tempdir().unwrap();
    // Three models with two values of theta: the base's configuration is used, with a note.
    let (bio, notes) = bake_recipe("bio", dir.path());
    let (merged, base) = (config(&bio), config(Path::new(&case_path("models/mistral01"))));
    assert_eq!(
        (&merged["rope_theta"], &merged["sliding_window"]),
        (&base["rope_theta"], &base["sliding_window"])
    );
    assert!(notes.iter().any(|note| note.contains("rope_theta")), "{notes:?}");
    let (auto, _) = bake_recipe("r25", dir.path());
    assert!(auto.join("chat_template.jinja").is_file());
    let (padded, _) = bake_recipe("r23", dir.path());
    assert_eq!(
        (&config(&padded)["vocab_size"], tensors(&padded)["model.embed_tokens.weight"].dims()),
        (&320.into(), &[320, 32][..])
    );
    let (stacked, _) = bake_recipe("mixst", dir.path());
    assert_eq!(config(&stacked)["num_hidden_layers"], 3);
    // A slice with one model is that model's layers.
    let (slices, _) = bake_recipe("prof", dir.path());
    let (found, b8) = (tensors(&slices), tensors(Path::new(&case_path("models/B8"))));
    assert_eq!(config(&slices)["num_hidden_layers"], 10);
    let name = |layer: usize| format!("model.layers.{layer}.mlp.up_proj.weight");
    let half = |t: &Tensor| {
        t.to_dtype(DType::F16).unwrap().to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap()
    };
    assert_eq!(half(&found[&name(5)]), half(&b8[&name(3)]));
    // More tokens than rows, and a leftover quantization_config.
    let (_, notes) = bake_recipe("tb", dir.path());
    assert!(notes.iter().any(|note| note.contains("token")), "{notes:?}");
    let (plain, _) = bake_recipe("lo", dir.path());
    assert!(config(&plain).get("quantization_config").is_none());
    let (named, _) = bake_recipe("nm", dir.path());
    assert_eq!(tensors(&named)["model.norm.weight"].dtype(), DType::F16);
    // The second document refers to the first by name.
    let merged = Models::default().merge_recipe(case_path("models/r3.yml")).unwrap();
    assert_eq!(merged.report().sources, ["First", "C"]);
}

/// `modules: {default: ...}` is equivalent to a recipe without `modules`.
#[test]
fn the_default_module_is_equivalent_to_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(case_path("models/r2.yml")).unwrap();
    let at = text.find("modules:\n").unwrap();
    let end = text.find("parameters:\n  lambda").unwrap();
    let inner = text[at..end]
        .lines()
        .skip(2)
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    // In the directory of the models, whose paths are relative.
    let models = dir.path().join("models");
    fs::create_dir(&models).unwrap();
    for name in ["A8", "B8", "base8"] {
        std::os::unix::fs::symlink(case_path(&format!("models/{name}")), models.join(name))
            .unwrap();
    }
    let recipe = models.join("plain.yml");
    fs::write(&recipe, format!("{}{inner}\n{}", &text[..at], &text[end..])).unwrap();
    let plain = Models::default()
        .merge_recipe(&recipe)
        .unwrap()
        .bake(dir.path().join("plain"))
        .unwrap()
        .path;
    let (module, _) = bake_recipe("r2", dir.path());
    assert_eq!(
        fs::read(plain.join("model.safetensors")).unwrap(),
        fs::read(module.join("model.safetensors")).unwrap()
    );
}

#[test]
fn weights_in_a_bin_file_are_read() {
    assert_eq!(load([case_path("models/binonly")]).unwrap().report().0[0].parameters, 34_720);
}

#[test]
fn data_in_common_layouts_is_read() {
    let source = dam_prelude::checkpoint::Source::open(&case_path("models/basechat")).unwrap();
    let read =
        |name: &str| Dataset::read(&case_path(&format!("data/{name}.jsonl")), &source).unwrap();
    for name in ["pc", "tool", "math", "d1"] {
        assert_eq!(read(name).examples.len(), 1, "{name}");
    }
    // System messages are included.
    assert!(read("s1").examples[0].ids.len() > read("s0").examples[0].ids.len());
}
