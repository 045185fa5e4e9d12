//! Static merges: mergekit's numbers, any family, nothing half-written, the same bytes on any number of threads.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use common::{data, golden, json};
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::methods::Linear;
use dam_prelude::{Bake, Models, load};

fn three() -> Models {
    load(["model0", "model1", "model2"].map(|name| golden(name).display().to_string())).unwrap()
}

fn tensors(directory: &Path) -> HashMap<String, Tensor> {
    safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn linear_agrees_with_mergekit() {
    let dir = tempfile::tempdir().unwrap();
    for (name, normalize) in [("linear", true), ("linear_unnormalized", false)] {
        let method = Linear { weights: vec![0.5, 0.3, 0.4], normalize, ..Linear::default() };
        let merged = three().merge(&method, dir.path().join(name), &Bake::default()).unwrap();
        let expected = safetensors::load(data("golden/mergekit").join(name).join("expected.safetensors"), &Device::Cpu).unwrap();
        let found = tensors(&merged.written.path);
        assert_eq!(found.len(), expected.len());
        for (name, expected) in expected {
            for (a, b) in values(&found[&name]).iter().zip(values(&expected)) {
                assert!((a - b).abs() <= 4.0 * f32::EPSILON * b.abs().max(0.01), "{name}: {a} and {b}");
            }
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let merged = |threads: usize| {
        let mut models = three();
        models.settings.threads = threads;
        let path = dir.path().join(threads.to_string());
        fs::read(models.merge(&Linear::default(), path, &Bake::default()).unwrap().written.path.join("model.safetensors"))
            .unwrap()
    };
    assert_eq!(merged(1), merged(3));
}

/// A checkpoint of a family that cannot be run, with a convolution, a tied output layer and a buffer.
fn other_family(directory: &Path, scale: f32, tied_stored: bool) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("config.json"), r#"{"model_type": "mamba", "tie_word_embeddings": true}"#).unwrap();
    let random = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        Tensor::from_vec((0..count).map(|i| scale * i as f32).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
    };
    let mut tensors = HashMap::from([
        ("backbone.embeddings.weight".to_owned(), random(&[6, 4])),
        ("backbone.layers.0.mixer.conv1d.weight".to_owned(), random(&[4, 1, 3])),
        ("backbone.layers.0.mixer.conv1d.bias".to_owned(), random(&[4])),
        ("position_ids".to_owned(), Tensor::arange(0u32, 5, &Device::Cpu).unwrap()),
    ]);
    if tied_stored {
        tensors.insert("lm_head.weight".into(), random(&[6, 4]));
    }
    safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
}

#[test]
fn a_family_that_cannot_be_run_merges() {
    let dir = tempfile::tempdir().unwrap();
    other_family(&dir.path().join("a"), 1.0, true);
    other_family(&dir.path().join("b"), 3.0, false);
    let (replies, ok) = json(dir.path(), "load a b; merge linear out");
    assert!(ok, "{replies:?}");
    let found = tensors(&dir.path().join("out"));
    assert_eq!(values(&found["backbone.layers.0.mixer.conv1d.weight"])[5], 10.0);
    assert_eq!(values(&found["backbone.embeddings.weight"])[23], 46.0);
    assert_eq!(found["position_ids"].to_vec1::<u32>().unwrap(), [0, 1, 2, 3, 4]);
    let (replies, ok) = json(dir.path(), "load a b; wrap");
    assert!(!ok);
    let text = replies.last().unwrap().to_string();
    assert!(text.contains("mamba") && text.contains("merge linear"), "{text}");
}

#[test]
fn what_cannot_be_merged_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    other_family(&dir.path().join("a"), 1.0, false);
    let load = format!("load {} {}", golden("model0").display(), golden("model1").display());
    for (verbs, word) in [
        (format!("{load}; merge linear weights=1,2,3 out"), "2 numbers"),
        (format!("{load}; merge linear weights=1,-1 out"), "sum is not 0"),
        (format!("{load}; merge linar out"), "linear"),
        (format!("{load}; merge linear dtype=int8 out"), "bf16"),
        (format!("{load}; merge linear"), "directory"),
        (format!("load {} a; merge linear out", golden("model0").display()), "cannot be merged"),
        ("merge linear out".to_owned(), "load"),
    ] {
        let (replies, ok) = json(dir.path(), &verbs);
        assert!(!ok && replies.last().unwrap().to_string().contains(word), "{verbs}: {replies:?}");
        assert!(!dir.path().join("out").exists());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
