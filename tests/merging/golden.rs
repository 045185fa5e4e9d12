//! Agreement with PyTorch: the numbers in `tests/data/golden` come from an independent
//! implementation (PyTorch 2.15, transformers 5.23), which was checked against the published DAM
//! code.

use std::path::{Path, PathBuf};

use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::coefficients::Merge;
use dam_prelude::data::Batch;
use dam_prelude::model::{Decoder, SourceWeights};
use dam_prelude::objective::{self, Distillation, Reduction, TeacherLogits};
use dam_prelude::*;

type Tensors = std::collections::HashMap<String, Tensor>;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

fn place(name: &str) -> String {
    golden().join(name).display().to_string()
}

fn expected() -> Tensors {
    safetensors::load(golden().join("expected.safetensors"), &Device::Cpu).unwrap()
}

fn expected_json() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden().join("expected.json")).unwrap()).unwrap()
}

/// Three sources and the base, as in the reference run: batches of two, in order, no clipping.
fn models() -> Models {
    let mut models = load(
        ["base", "model0", "model1", "model2"]
            .map(|n| format!("{}={}", n.replace("model", "m"), place(n))),
    )
    .unwrap();
    for i in 0..3 {
        assert_eq!(models.data(&format!("m{i}"), &place(&format!("data{i}.jsonl"))).unwrap(), 2);
    }
    models.settings =
        Settings { batch_size: 2, shuffle: false, lr: 1e-2, clip: 0.0, ..Settings::default() };
    models
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// The largest difference relative to the largest expected magnitude.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let expected = values(expected);
    let scale = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    values(found).iter().zip(&expected).fold(0f64, |m, (a, b)| m.max((a - b).abs())) / scale
}

#[track_caller]
fn close(found: f64, expected: &serde_json::Value, relative: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= relative * expected.abs(), "{found} and {expected}");
}

#[track_caller]
fn agrees(found: &Tensor, expected: &Tensor, relative: f64, what: &str) {
    let difference = difference(found, expected);
    assert!(difference <= relative, "{what}: relative difference {difference:e}");
}

fn batch(expected: &Tensors, i: usize) -> Batch {
    let ids: Vec<Vec<u32>> =
        expected[&format!("input_ids.{i}")].to_dtype(DType::U32).unwrap().to_vec2().unwrap();
    let mask: Vec<Vec<f32>> =
        expected[&format!("attention_mask.{i}")].to_dtype(DType::F32).unwrap().to_vec2().unwrap();
    let cut: Vec<Vec<u32>> = ids
        .iter()
        .zip(&mask)
        .map(|(ids, m)| ids[..m.iter().filter(|x| **x > 0.0).count()].to_vec())
        .collect();
    Batch::new(cut.iter().map(Vec::as_slice), &Device::Cpu).unwrap()
}

/// The unpadded tokens of `batch` in padded logits: batch x positions x vocabulary.
fn unmasked(batch: &Batch, logits: &Tensor) -> Tensor {
    let rows = batch
        .lengths
        .iter()
        .enumerate()
        .map(|(i, n)| logits.get(i).unwrap().narrow(0, 0, *n).unwrap());
    Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap()
}

fn merge_logits(merge: &Merge, source: &Source, batch: &Batch) -> Tensor {
    let weights = merge.weights(DType::F32).unwrap();
    let decoder = Decoder::new(source.architecture().unwrap(), &weights);
    decoder.logits(&decoder.hidden(batch).unwrap()).unwrap()
}

fn sources(names: &[&str]) -> Vec<Source> {
    names.iter().map(|n| Source::open(&place(n)).unwrap()).collect()
}

/// The merge of the three sources at the reference coefficients.
fn at_golden(f: Nonlinearity, expected: &Tensors) -> (Merge, Vec<Source>) {
    let sources = sources(&["model0", "model1", "model2"]);
    let merge = Merge::new(&sources, Columns { f, ..Columns::default() }, Device::Cpu).unwrap();
    for tensor in &merge.tensors {
        let coefficients = expected[&format!("coef.{}", tensor.spec.name)].unsqueeze(1).unwrap();
        merge.set_coefficients(tensor, &coefficients).unwrap();
    }
    (merge, sources)
}

/// A session of the three sources at the reference coefficients.
fn dam_at_golden(settings: Settings, expected: &Tensors) -> Dam {
    let mut models = models();
    models.settings = settings;
    let dam = models.wrap(Columns::default()).unwrap();
    for tensor in dam.inspect("").unwrap().tensors {
        dam.set_coefficients(&tensor.name, &expected[&format!("coef.{}", tensor.name)]).unwrap();
    }
    dam
}

#[test]
fn source_logits_agree() {
    let expected = expected();
    for (i, source) in sources(&["model0", "model1", "model2"]).iter().enumerate() {
        let batch = batch(&expected, i);
        let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
        let decoder = Decoder::new(source.architecture().unwrap(), &weights);
        let logits = decoder.logits(&decoder.hidden(&batch).unwrap()).unwrap();
        agrees(
            &logits,
            &unmasked(&batch, &expected[&format!("teacher_logits.{i}")]),
            1e-5,
            "teacher",
        );
    }
}

#[test]
fn uniform_merge_logits_agree() {
    let expected = expected();
    let three = sources(&["model0", "model1", "model2"]);
    let merge = Merge::new(&three, Columns::default(), Device::Cpu).unwrap();
    for i in 0..3 {
        let batch = batch(&expected, i);
        let logits = merge_logits(&merge, &three[0], &batch);
        agrees(
            &logits,
            &unmasked(&batch, &expected[&format!("uniform_logits.{i}")]),
            1e-5,
            "uniform",
        );
    }
    let four = sources(&["model0", "model1", "model2", "base"]);
    let merge = Merge::new(&four, Columns::default(), Device::Cpu).unwrap();
    let batch = batch(&expected, 0);
    let logits = merge_logits(&merge, &four[0], &batch);
    agrees(
        &logits,
        &unmasked(&batch, &expected["uniform_with_base_logits.0"]),
        1e-5,
        "uniform with base",
    );
}

#[test]
fn logits_agree_for_every_nonlinearity() {
    let expected = expected();
    for (f, name) in [
        (Nonlinearity::None, "none"),
        (Nonlinearity::Tanh, "tanh"),
        (Nonlinearity::Sigmoid, "sigmoid"),
        (Nonlinearity::Relu, "relu"),
    ] {
        let (merge, sources) = at_golden(f, &expected);
        let batch = batch(&expected, 0);
        let logits = merge_logits(&merge, &sources[0], &batch);
        agrees(
            &logits,
            &unmasked(&batch, &expected[&format!("merged_logits.{name}.0")]),
            1e-5,
            name,
        );
    }
}

#[test]
fn loss_terms_agree() {
    let (expected, json) = (expected(), expected_json());
    let parts = &json["loss_parts"];
    let (merge, sources) = at_golden(Nonlinearity::None, &expected);
    for (i, source) in sources.iter().enumerate() {
        let batch = batch(&expected, i);
        let student = merge_logits(&merge, source, &batch);
        let teacher =
            TeacherLogits::Whole(unmasked(&batch, &expected[&format!("teacher_logits.{i}")]));
        let compared = Distillation {
            student: &student,
            teacher: &teacher,
            temperature: 2.0,
            size: 2,
            tokens: batch.tokens(),
        };
        let value = |x: Tensor| values(&x)[0];
        close(value(compared.kl(Reduction::Reference).unwrap()), &parts[format!("kl.{i}")], 1e-5);
        close(
            value(compared.kl(Reduction::TokenMean).unwrap()) / 2.0,
            &parts[format!("kl.{i}")],
            1e-5,
        );
        close(value(compared.mse().unwrap()), &parts[format!("mse.{i}")], 1e-5);
        close(0.1 * value(compared.entropy().unwrap()), &parts[format!("entropy.{i}")], 1e-5);
    }
    let total = |f: fn(&Tensor) -> dam_prelude::candle_core::Result<Tensor>| -> f64 {
        merge.tensors.iter().map(|t| values(&f(&merge.coefficients(t).unwrap()).unwrap())[0]).sum()
    };
    close(0.01 * total(objective::cosine), &parts["cosine"], 1e-5);
    close(1e-6 * total(objective::l1), &parts["l1"], 1e-5);
    close(1e-6 * total(objective::l2), &parts["l2"], 1e-5);
    close(1e-5 * total(|c| objective::overlap(c, None)), &parts["overlap"], 1e-5);
}

#[test]
fn top_k_of_all_tokens_equals_the_full_teacher() {
    let expected = expected();
    let mut settings = models().settings;
    let whole = dam_at_golden(settings.clone(), &expected).loss().unwrap();
    settings.top_k = 96;
    let all = dam_at_golden(settings.clone(), &expected).loss().unwrap();
    assert!((whole.total - all.total).abs() < 1e-5);
    settings.top_k = 4;
    let few = dam_at_golden(settings, &expected);
    assert!(few.loss().unwrap().total.is_finite());
    // 3 sources, 2 examples of up to 12 tokens, 4 values and indices of 4 bytes each.
    assert!(few.teacher_bytes() <= 3 * 2 * 12 * 4 * 8);
    few.step().unwrap();
}

#[test]
fn gradients_agree() {
    let (expected, json) = (expected(), expected_json());
    let dam = dam_at_golden(models().settings, &expected);
    let loss = dam.loss().unwrap();
    close(loss.total, &json["total_kl_cosine"], 1e-5);
    let step = dam.step().unwrap();
    // One AdamW step from zero moments changes each coefficient by lr * sign(gradient), so the
    // gradient is compared through its norm and, below, through the path of five steps.
    let norm = expected
        .iter()
        .filter(|(k, _)| k.starts_with("grad."))
        .flat_map(|(_, g)| values(g))
        .map(|g| g * g)
        .sum::<f64>();
    assert!(
        (step.grad_norm - norm.sqrt()).abs() <= 1e-4 * norm.sqrt(),
        "{} and {}",
        step.grad_norm,
        norm.sqrt()
    );
}

#[test]
fn every_gradient_agrees() {
    let expected = expected();
    let (merge, sources) = at_golden(Nonlinearity::None, &expected);
    let weights = merge.weights(DType::F32).unwrap();
    let mut loss = Tensor::new(0f32, &Device::Cpu).unwrap();
    for (i, source) in sources.iter().enumerate() {
        let batch = batch(&expected, i);
        let decoder = Decoder::new(source.architecture().unwrap(), &weights);
        let student = decoder.logits(&decoder.hidden(&batch).unwrap()).unwrap();
        let teacher =
            TeacherLogits::Whole(unmasked(&batch, &expected[&format!("teacher_logits.{i}")]));
        let compared = Distillation {
            student: &student,
            teacher: &teacher,
            temperature: 2.0,
            size: 2,
            tokens: batch.tokens(),
        };
        loss = (loss + compared.kl(Reduction::Reference).unwrap()).unwrap();
    }
    let by_weight = loss.backward().unwrap();
    for tensor in &merge.tensors {
        let name = &tensor.spec.name;
        let by_weight = by_weight.get(&weights[name]).unwrap();
        let by_scales = merge.scale_gradient(tensor, by_weight).unwrap();
        let from_data = merge.pull_back(tensor, &by_scales).unwrap();
        let cosine =
            (objective::cosine(&merge.coefficients(tensor).unwrap()).unwrap() * 0.01).unwrap();
        let from_cosine = merge.gradients(tensor, &cosine).unwrap();
        assert_eq!((from_data[0].0, from_data.len(), from_cosine.len()), (from_cosine[0].0, 1, 1));
        let gradient = (&from_data[0].1 + &from_cosine[0].1).unwrap().squeeze(1).unwrap();
        agrees(&gradient, &expected[&format!("grad.{name}")], 1e-4, name);
    }
}

fn five_steps(optimizer: Optimizer, losses: &str, prefix: &str) -> Dam {
    let (expected, json) = (expected(), expected_json());
    let mut settings = models().settings;
    settings.optimizer = optimizer;
    (settings.weights.l1, settings.weights.l2) = (1e-6, 1e-6);
    let dam = dam_at_golden(settings, &expected);
    for step in 0..5 {
        close(dam.step().unwrap().total, &json[losses][step], 1e-5);
    }
    for tensor in dam.inspect("").unwrap().tensors {
        let c = dam.coefficients(&tensor.name).unwrap();
        agrees(&c, &expected[&format!("{prefix}.{}", tensor.name)], 1e-4, &tensor.name);
    }
    dam
}

#[test]
fn five_adamw_steps_and_their_baked_merge_agree() {
    let expected = expected();
    let dam = five_steps(Optimizer::AdamW, "adamw_losses", "adamw5");
    let dir = tempfile::tempdir().unwrap();
    let baked = dam.bake(dir.path().join("merged")).unwrap();
    let source = Source::open(&baked.path.display().to_string()).unwrap();
    let tensors = safetensors::load(baked.path.join("model.safetensors"), &Device::Cpu).unwrap();
    for (name, tensor) in &tensors {
        agrees(tensor, &expected[&format!("baked.{name}")], 1e-4, name);
    }
    assert_eq!(tensors.len(), 21);
    let batch = batch(&expected, 0);
    let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
    let decoder = Decoder::new(source.architecture().unwrap(), &weights);
    let logits = decoder.logits(&decoder.hidden(&batch).unwrap()).unwrap();
    agrees(&logits, &unmasked(&batch, &expected["baked_logits.0"]), 1e-4, "baked logits");
}

#[test]
fn five_mofo_steps_agree() {
    five_steps(Optimizer::Mofo, "mofo_losses", "mofo5");
}

#[test]
fn the_uniform_start_agrees() {
    let (expected, json) = (expected(), expected_json());
    for (f, key) in [(Nonlinearity::None, "uniform"), (Nonlinearity::Tanh, "uniform_tanh")] {
        let mut models = models();
        (models.settings.weights.l1, models.settings.weights.l2) = (1e-6, 1e-6);
        let dam = models.wrap(Columns { f, ..Columns::default() }).unwrap();
        assert_eq!((dam.report().tensors, dam.report().coefficients), (21, 2112));
        let loss = dam.loss().unwrap();
        for (name, part) in json[key]["loss_parts"].as_object().unwrap() {
            if let Some((_, value)) =
                loss.terms.iter().find(|(term, _)| *term == name.replace("kl.", "kl.m"))
            {
                close(*value, part, 1e-5);
            } else {
                assert_eq!(name, "overlap");
            }
        }
        for step in 0..5 {
            close(dam.step().unwrap().total, &json[key]["adamw_losses"][step], 1e-5);
        }
        close(dam.loss().unwrap().total, &json[key]["adamw_losses"][5], 1e-5);
        if f == Nonlinearity::None {
            let dir = tempfile::tempdir().unwrap();
            let baked = dam.bake(dir.path().join("merged")).unwrap();
            for (name, tensor) in
                safetensors::load(baked.path.join("model.safetensors"), &Device::Cpu).unwrap()
            {
                agrees(&tensor, &expected[&format!("uniform_adamw5_baked.{name}")], 1e-4, &name);
            }
        }
    }
}
