//! LoRA adapters match the weights merged by PEFT. The adapters and numbers were made by
//! `tests/data/lora/make.py`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::common::{data, golden};
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::model::{SourceWeights, Weights};
use dam_prelude::{Columns, Error, load};

fn with(adapter: &Path) -> String {
    format!("{}+{}", golden("model0").display(), adapter.display())
}

fn expected() -> HashMap<String, Tensor> {
    safetensors::load(data("lora/expected.safetensors"), &Device::Cpu).unwrap()
}

#[test]
fn weights_match_peft() {
    let expected = expected();
    for name in ["plain", "patterns", "whole"] {
        let source = Source::open(&with(&data("lora").join(name))).unwrap();
        assert_eq!(source.name(), name);
        let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
        for spec in source.architecture().unwrap().tensors() {
            let difference = (weights.weight(&spec.name).unwrap()
                - &expected[&format!("{name}/{}", spec.name)])
                .unwrap();
            let worst: f32 = difference
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!(worst < 2e-6, "{name} {}: {worst:e}", spec.name);
        }
    }
}

#[test]
fn adapted_sources_merge_train_and_can_be_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let plain = with(&data("lora/plain"));
    let mut models =
        load([format!("a={plain}"), format!("b={plain}+{}", data("lora/patterns").display())])
            .unwrap();
    assert_eq!(models.report().0[1].dtype, "f32 + LoRA");
    for i in 0..2 {
        models
            .data(["a", "b"][i], &golden(&format!("data{i}.jsonl")).display().to_string())
            .unwrap();
    }
    let dam = models.wrap(Columns::default()).unwrap();
    dam.train(2).unwrap();
    dam.save(dir.path().join("s.dam")).unwrap();
    let again = dam_prelude::Dam::open(dir.path().join("s.dam")).unwrap();
    assert_eq!(dam.step().unwrap().total, again.step().unwrap().total);
    dam.bake(dir.path().join("out")).unwrap();
    Source::open(&dir.path().join("out").display().to_string()).unwrap();
}

#[test]
fn corrupt_adapters_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = load([with(dir.path())]).unwrap_err();
    assert!(
        matches!(&error, Error::Adapter { .. })
            && error.to_string().contains("no `adapter_config.json`"),
        "{error:?}"
    );
    assert!(matches!(load([with(&dir.path().join("none"))]).unwrap_err(), Error::NotFound { .. }));
    let copy = |edit: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors =
            safetensors::load(data("lora/plain/adapter_model.safetensors"), &Device::Cpu).unwrap();
        edit(&mut tensors);
        fs::copy(data("lora/plain/adapter_config.json"), dir.path().join("adapter_config.json"))
            .unwrap();
        safetensors::save(&tensors, dir.path().join("adapter_model.safetensors")).unwrap();
        load([with(dir.path())]).unwrap_err()
    };
    let key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let partner = key.replace("lora_A", "lora_B");
    let error = copy(&|t| drop(t.remove(&partner)));
    assert!(matches!(error, Error::MissingTensor { .. }), "{error:?}");
    let error = copy(&|t| {
        drop(t.insert(key.into(), Tensor::zeros((4, 31), DType::F32, &Device::Cpu).unwrap()))
    });
    assert!(error.to_string().contains("32 x 31, but the base's is [32, 32]"), "{error:?}");
    assert!(error.hint().unwrap().contains("trained on"), "{error:?}");
    let error = copy(&|t| {
        drop(t.insert(key.into(), Tensor::zeros((3, 32), DType::F32, &Device::Cpu).unwrap()))
    });
    assert!(matches!(error, Error::Shape { .. }), "{error:?}");
    let error = copy(&|t| {
        drop(t.insert(key.into(), Tensor::new(&[[f32::NAN; 32]; 4], &Device::Cpu).unwrap()))
    });
    assert!(matches!(error, Error::NonFinite { .. }), "{error:?}");
    let error = copy(&|t| {
        let a = t.remove(key).unwrap();
        t.insert(key.replace("layers.0", "layers.9"), a);
        let b = t.remove(&partner).unwrap();
        t.insert(partner.replace("layers.0", "layers.9"), b);
    });
    let text = error.to_string();
    assert!(
        text.contains("target_modules")
            && text.contains("no tensor `model.layers.9.self_attn.q_proj.weight`"),
        "{text}"
    );
    let error = copy(&|t| t.clear());
    assert!(matches!(error, Error::MissingTensor { .. }), "{error:?}");
}
