//! Tensor names with prefixes left by compilers, trainers and PEFT, and names without `model.`:
//! they are read with a note, and written in the standard form of a decoder. Unclear names are
//! refused with an example.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::data;
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::methods::Linear;
use dam_prelude::model::SourceWeights;
use dam_prelude::{Error, load};
use serde_json::json;

type Tensors = HashMap<String, Tensor>;

fn model() -> PathBuf {
    data("families/qwen3")
}

fn read(directory: &Path) -> Tensors {
    safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap()
}

/// The model with its tensors renamed by `new`; none drops the tensor.
fn renamed(directory: PathBuf, new: impl Fn(&str) -> Option<String>) -> PathBuf {
    fs::create_dir_all(&directory).unwrap();
    let tensors: Tensors =
        read(&model()).into_iter().filter_map(|(name, t)| Some((new(&name)?, t))).collect();
    safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
    fs::copy(model().join("config.json"), directory.join("config.json")).unwrap();
    directory
}

fn open(directory: &Path) -> Result<Source, Error> {
    Source::open(&directory.display().to_string())
}

fn weights(source: &Source) -> Vec<(String, Vec<f32>)> {
    let weights =
        SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 }.collect().unwrap();
    weights
        .into_iter()
        .map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap()))
        .collect()
}

#[test]
fn leftover_prefixes_are_dropped_and_noted() {
    let dir = tempfile::tempdir().unwrap();
    let expected = open(&model()).unwrap();
    type New = fn(&str) -> Option<String>;
    let cases: [(&str, New, &str); 9] = [
        ("compiled", |n| Some(format!("_orig_mod.{n}")), "`_orig_mod.`"),
        ("parallel", |n| Some(format!("module.{n}")), "`module.`"),
        ("both", |n| Some(format!("module._orig_mod.{n}")), "`module.`"),
        ("peft", |n| Some(format!("base_model.model.{n}")), "`base_model.model.`"),
        ("decoder", |n| Some(format!("language_model.{n}")), "`language_model.`"),
        (
            "inner",
            |n| Some(n.replace("model.layers.0.", "model.layers.0._orig_mod.")),
            "`_orig_mod`",
        ),
        (
            "sharded",
            |n| Some(n.replace(".mlp.", "._fsdp_wrapped_module.mlp.")),
            "`_fsdp_wrapped_module`",
        ),
        ("bare", |n| Some(n.strip_prefix("model.").unwrap_or(n).to_owned()), "`model.`"),
        ("plain", |n| Some(n.to_owned()), ""),
    ];
    for (name, new, prefix) in cases {
        println!("{name}");
        let place = renamed(dir.path().join(name), new);
        let source = open(&place).unwrap();
        assert_eq!(weights(&source), weights(&expected));
        assert_eq!(
            source.notes().iter().any(|note| note.contains(prefix)),
            !prefix.is_empty(),
            "{:?}",
            source.notes()
        );
        assert!(source.unused().is_empty());
        // Merged with the original model, and written in the standard form.
        let models =
            load([format!("a={}", place.display()), format!("b={}", model().display())]).unwrap();
        let written = models
            .merge(Linear::default())
            .unwrap()
            .bake(dir.path().join(format!("{name}-merged")))
            .unwrap();
        let names = |place: &Path| read(place).into_keys().collect::<BTreeSet<_>>();
        assert_eq!(names(&written.path), names(&model()));
        assert!(prefix.is_empty() || models.to_string().contains(prefix));
    }
}

#[test]
fn mixed_names_are_refused_with_an_example_of_each_kind() {
    let dir = tempfile::tempdir().unwrap();
    let partly = |prefix: &'static str| {
        move |n: &str| Some(if n.contains("layers.1") { format!("{prefix}{n}") } else { n.into() })
    };
    for (name, prefix) in
        [("compiled", "_orig_mod."), ("parallel", "module."), ("peft", "base_model.model.")]
    {
        let error = open(&renamed(dir.path().join(name), partly(prefix))).unwrap_err();
        let Error::TensorNames { reason, .. } = &error else { panic!("{error:?}") };
        assert!(
            reason.contains(&format!("`{prefix}model.layers.1."))
                && reason.matches('`').count() == 4,
            "{reason}"
        );
        assert!(error.hint().unwrap().contains("save_pretrained"));
    }
    let bare = |n: &str| {
        Some(if n.contains("layers.1") { n.replacen("model.", "", 1) } else { n.to_owned() })
    };
    let error = open(&renamed(dir.path().join("bare"), bare)).unwrap_err();
    assert!(
        matches!(&error, Error::TensorNames { reason, .. } if reason.contains("`layers.1.")),
        "{error:?}"
    );
}

#[test]
fn an_unmerged_adapter_is_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let unmerged = |n: &str| {
        Some(format!("base_model.model.{}", n.replace("q_proj.weight", "q_proj.base_layer.weight")))
    };
    let error = open(&renamed(dir.path().join("peft"), unmerged)).unwrap_err();
    assert!(
        matches!(&error, Error::TensorNames { reason, .. } if reason.contains(".base_layer.")),
        "{error:?}"
    );
    let hint = error.hint().unwrap();
    assert!(hint.contains("merge_and_unload") && hint.contains("BASE+ADAPTER"), "{hint}");
}

/// GPT-2 was published without `transformer.`, but fine-tunes have the prefix: they are the same
/// tensors.
#[test]
fn unsupported_families_get_missing_prefixes_where_unambiguous() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, prefix: &str| {
        let directory = dir.path().join(name);
        fs::create_dir(&directory).unwrap();
        let tensor = || Tensor::ones((4, 2), DType::F32, &Device::Cpu).unwrap();
        let names = ["wte.weight", "h.0.mlp.c_fc.weight", "ln_f.weight"];
        let tensors: Tensors =
            names.into_iter().map(|n| (format!("{prefix}{n}"), tensor())).collect();
        safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
        fs::write(directory.join("config.json"), json!({"model_type": "gpt2"}).to_string())
            .unwrap();
        directory
    };
    let places = [make("bare", ""), make("full", "transformer.")];
    let models = load(places.each_ref().map(|p| p.display().to_string())).unwrap();
    let written = models.merge(Linear::default()).unwrap().bake(dir.path().join("out")).unwrap();
    assert!(read(&written.path).contains_key("transformer.h.0.mlp.c_fc.weight"));
    assert!(models.to_string().contains("missing `transformer.`"), "{models}");
}

/// A directory name may contain `=`: quoted, or with `./` before it, it is not read as a key.
#[test]
fn quoted_names_with_an_equals_sign_are_paths() {
    let dir = tempfile::tempdir().unwrap();
    crate::common::copy_checkpoint("model0", &dir.path().join("x=a"));
    crate::common::copy_checkpoint("model1", &dir.path().join("b"));
    crate::common::copy_checkpoint("model1", &dir.path().join("a"));
    let steps = "load \"x=a\" 'b'; data x=a=\"d=0.jsonl\" b=\"d=1.jsonl\"; wrap; step; bake \"o=p\"; merge linear 'o2=p' dtype=f32; \
                 eval \"d=0.jsonl\"; save \"s=1.dam\"; export \"e=1.dam\"; open \"s=1.dam\"";
    for i in 0..2 {
        fs::copy(
            crate::common::golden(&format!("data{i}.jsonl")),
            dir.path().join(format!("d={i}.jsonl")),
        )
        .unwrap();
    }
    let (replies, ok) = crate::common::json(dir.path(), steps);
    assert!(ok, "{replies:?}");
    assert_eq!(replies[0]["sources"][0]["name"], "x=a", "{}", replies[0]);
    for file in ["o=p/model.safetensors", "o2=p/model.safetensors", "s=1.dam", "e=1.dam"] {
        assert!(dir.path().join(file).is_file(), "{file}");
    }
    // The exported script repeats the session with the same paths.
    fs::remove_dir_all(dir.path().join("o=p")).unwrap();
    let again = crate::common::dam(dir.path()).arg("./e=1.dam").output().unwrap();
    assert!(again.status.success(), "{again:?}");
    assert!(dir.path().join("o=p/model.safetensors").is_file());
    // Without quotes it is a name, as before.
    let (replies, ok) = crate::common::json(dir.path(), "load y=b x=\"a\"; bake o=p");
    assert_eq!(
        (&replies[0]["sources"][0]["name"], &replies[0]["sources"][1]["name"]),
        (&"y".into(), &"x".into())
    );
    assert!(
        !ok && replies[1]["error"].as_str().unwrap().contains("unknown key `o`"),
        "{replies:?}"
    );
}
