//! Every family and storage format that loads gives the results of transformers: sliding windows,
//! biases, tied output layers, shards, half precision, scaled rotary frequencies, both spellings of
//! config.json. `tests/data/families/make.py` computed the numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::data;
use dam_prelude::candle_core::{DType, Device, Tensor, Var, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Batch;
use dam_prelude::model::{Cache, Decoder, SourceWeights};
use dam_prelude::{Bake, BiasStart, Columns, load};

const MODELS: [&str; 20] = [
    "mistral-window",
    "qwen2-bias-tied",
    "llama-sharded",
    "llama-biases",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-long",
    "smollm3",
    "gemma",
    "qwen3-yarn",
    "smollm3-window",
    "olmo2",
    "granite",
    "glm4",
    "glm",
    "olmo3",
    "exaone4",
    "ernie4_5",
];

fn model_path(name: &str) -> String {
    data("families").join(name).display().to_string()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, relative: f32) {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (values(found), values(expected));
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= relative * scale, "relative difference {:e}", worst / scale);
}

/// The logits of a source on the ids of the expected file.
fn logits(source: &Source, ids: &Tensor) -> Tensor {
    let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
    let decoder = Decoder::new(source.architecture().unwrap(), &weights);
    let (sequences, length) = ids.dims2().unwrap();
    let rows = ids.to_vec2::<u32>().unwrap();
    let batch = Batch::new(rows.iter().map(Vec::as_slice), &Device::Cpu).unwrap();
    decoder
        .logits(&decoder.hidden(&batch).unwrap())
        .unwrap()
        .reshape((sequences, length, ()))
        .unwrap()
}

fn expected() -> (Tensor, std::collections::HashMap<String, Tensor>) {
    let all = safetensors::load(data("families/expected.safetensors"), &Device::Cpu).unwrap();
    (all["input_ids"].to_dtype(DType::U32).unwrap(), all)
}

#[test]
fn logits_agree_with_transformers() {
    let (ids, expected) = expected();
    for name in MODELS {
        println!("{name}");
        let source = Source::open(&model_path(name)).unwrap();
        assert_close(&logits(&source, &ids), &expected[name], 1e-5);
    }
}

#[test]
fn the_cache_gives_the_same_logits() {
    let (ids, expected) = expected();
    // longrope rotates keys differently in long sequences; cached keys keep their rotation, here as
    // in transformers.
    for name in MODELS.into_iter().filter(|name| *name != "phi3-long") {
        let source = Source::open(&model_path(name)).unwrap();
        let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }
            .collect()
            .unwrap();
        let decoder = Decoder::new(source.architecture().unwrap(), &weights);
        for (row, sequence) in ids.to_vec2::<u32>().unwrap().iter().enumerate() {
            let mut cache = Cache::default();
            let expected = expected[name].get(row).unwrap();
            let mut parts = Vec::new();
            for (start, length) in [(0, 7), (7, 1), (8, 1), (9, 3)] {
                let next = Tensor::new(&sequence[start..start + length], &Device::Cpu).unwrap();
                let caches = std::slice::from_mut(&mut cache);
                let hidden = decoder.hidden_cached(&next, &[length], caches).unwrap();
                parts.push(decoder.logits(&hidden).unwrap());
            }
            assert_close(&Tensor::cat(&parts, 0).unwrap(), &expected, 1e-5);
            // Running each sequence separately changes nothing either.
            let alone = Batch::new([sequence.as_slice()], &Device::Cpu).unwrap();
            let each = decoder.hidden_each(&[alone]).unwrap();
            assert_close(&decoder.logits(&each[0]).unwrap(), &expected, 1e-5);
        }
    }
}

#[test]
fn stored_dtypes_and_shards_are_reported() {
    let sources: [Source; 4] =
        std::array::from_fn(|i| Source::open(&model_path(MODELS[i])).unwrap());
    let [mistral, qwen2, sharded, biases] = &sources;
    assert_eq!(
        sources.iter().map(|s| s.dtype()).collect::<Vec<_>>(),
        [DType::F32, DType::BF16, DType::F16, DType::F32]
    );
    assert_eq!(mistral.architecture().unwrap().attention[0].window, Some(5));
    assert!(
        qwen2.architecture().unwrap().qkv_bias
            && qwen2.architecture().unwrap().tied
            && !qwen2.architecture().unwrap().output_bias
    );
    assert!(sharded.architecture().unwrap().tied);
    assert!(biases.architecture().unwrap().output_bias && biases.architecture().unwrap().mlp_bias);
    let table = load([model_path("qwen2-bias-tied")]).unwrap().to_string();
    for word in ["qwen2-bias-tied", "qwen2", "bf16", "size"] {
        assert!(table.contains(word), "{table}");
    }
}

/// A source merged with itself with coefficients that sum to 1 is unchanged, for any family.
#[test]
fn merging_a_source_with_itself_reproduces_it() {
    let (ids, expected) = expected();
    for name in MODELS {
        let models =
            load([format!("a={}", model_path(name)), format!("b={}", model_path(name))]).unwrap();
        let dam = models.wrap(Columns { bias: BiasStart::Same, ..Columns::default() }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (dtype, relative) in [(None, 1e-5), (Some("f32"), 1e-5), (Some("bf16"), 3e-2)] {
            // Shards of at most 3 kB.
            let options = Bake {
                dtype: dtype.map(str::to_owned),
                shard_bytes: 3_000,
                force: true,
                ..Bake::default()
            };
            let written = dam.bake_with(dir.path().join("out"), &options).unwrap();
            assert!(written.files > 4, "{written:?}");
            let baked = Source::open(&written.path.display().to_string()).unwrap();
            assert_close(&logits(&baked, &ids), &expected[name], relative);
            let wanted = match dtype {
                Some("f32") => DType::F32,
                Some(_) => DType::BF16,
                None => Source::open(&model_path(name)).unwrap().dtype(),
            };
            assert_eq!(baked.dtype(), wanted);
        }
    }
}

/// Training with recomputed layers gives the same numbers.
#[test]
fn recomputing_layers_gives_the_same_gradients() {
    for name in MODELS {
        let losses = ["off", "on"].map(|recompute| {
            let mut models =
                load([format!("a={}", model_path(name)), format!("b={}", model_path(name))])
                    .unwrap();
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("data.jsonl");
            fs::write(
                &file,
                "{\"input_ids\": [1, 2, 3, 4, 5, 6, 7, 8]}\n{\"input_ids\": [9, 8, 7]}\n",
            )
            .unwrap();
            for source in ["a", "b"] {
                models.data(source, &file.display().to_string()).unwrap();
            }
            models.settings.set("recompute", recompute).unwrap();
            (models.settings.batch_size, models.settings.lr) = (2, 1e-2);
            let dam = models
                .wrap(Columns { f: dam_prelude::Nonlinearity::Tanh, ..Columns::default() })
                .unwrap();
            dam.train(4).unwrap().losses
        });
        assert_eq!(losses[0], losses[1], "{name}");
    }
}

/// The published start: biases are summed.
#[test]
fn biases_start_at_one_as_published() {
    let models = load([
        format!("a={}", model_path("llama-biases")),
        format!("b={}", model_path("llama-biases")),
    ])
    .unwrap();
    let dam = models.wrap(Columns::default()).unwrap();
    let name = "model.layers.0.self_attn.q_proj.bias";
    assert_eq!(dam.coefficients(name).unwrap().to_vec2::<f32>().unwrap(), [[1.0], [1.0]]);
    let dir = tempfile::tempdir().unwrap();
    dam.bake(dir.path().join("out")).unwrap();
    let read = |dir: &Path| {
        safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap()[name].clone()
    };
    let (source, merged) = (read(&data("families/llama-biases")), read(&dir.path().join("out")));
    assert_close(&merged, &(source * 2.0).unwrap(), 1e-6);
}

/// Training reaches every coefficient in every family; otherwise the check of gradients would fail.
#[test]
fn every_family_trains() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.jsonl");
    fs::write(&file, "{\"input_ids\": [1, 2, 3, 4, 5, 6, 7, 8]}\n{\"input_ids\": [9, 8, 7]}\n")
        .unwrap();
    for name in MODELS {
        let mut models =
            load([format!("a={}", model_path(name)), format!("b={}", model_path(name))]).unwrap();
        for source in ["a", "b"] {
            models.data(source, &file.display().to_string()).unwrap();
        }
        (models.settings.batch_size, models.settings.lr) = (2, 1e-2);
        // Through tanh, two halves do not sum to one, so there is something to learn.
        let dam = models
            .wrap(Columns { f: dam_prelude::Nonlinearity::Tanh, ..Columns::default() })
            .unwrap();
        let first = dam.step().unwrap().total;
        let last = dam.train(20).unwrap().last;
        assert!(last < first, "{name}: {first} to {last}");
    }
}

/// The gradient of every tensor agrees with central finite differences, in f64, along one direction
/// each.
#[test]
fn gradients_agree_with_finite_differences() {
    let ids: Vec<u32> = (0..9).map(|i| i * 7 % 64).collect();
    let batch = Batch::new([&ids[..6], &ids[6..]], &Device::Cpu).unwrap();
    let wave = |shape: &[usize], step: f64| {
        let values: Vec<f64> =
            (0..shape.iter().product()).map(|i| (1.0 + step * i as f64).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    for name in MODELS {
        let source = Source::open(&model_path(name)).unwrap();
        let architecture = source.architecture().unwrap();
        let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F64 }
            .collect()
            .unwrap();
        let loss = |weights: &BTreeMap<String, Tensor>| {
            let decoder = Decoder::new(architecture, weights);
            let logits = decoder.logits(&decoder.hidden(&batch).unwrap()).unwrap();
            (&logits * wave(logits.dims(), 0.7)).unwrap().sum_all().unwrap()
        };
        let vars: BTreeMap<String, Var> =
            weights.iter().map(|(k, w)| (k.clone(), Var::from_tensor(w).unwrap())).collect();
        let gradients =
            loss(&vars.iter().map(|(k, v)| (k.clone(), v.as_tensor().clone())).collect())
                .backward()
                .unwrap();
        for (tensor, var) in &vars {
            let (gradient, direction) = (gradients.get(var).unwrap(), wave(var.dims(), 1.7));
            let analytic: f64 =
                (gradient * &direction).unwrap().sum_all().unwrap().to_scalar().unwrap();
            let shifted = |h: f64| -> f64 {
                let mut weights = weights.clone();
                weights.insert(
                    tensor.clone(),
                    (&weights[tensor] + (&direction * h).unwrap()).unwrap(),
                );
                loss(&weights).to_scalar().unwrap()
            };
            let numeric = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            assert!(
                (analytic - numeric).abs() <= 1e-6 * (1.0 + numeric.abs()),
                "{name}, {tensor}: {analytic} and {numeric}"
            );
        }
    }
}

/// Both notations of config.json are equivalent.
#[test]
fn both_notations_of_config_json_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in ["model.safetensors", "config.json"] {
        fs::copy(data("families/qwen2-bias-tied").join(file), model.join(file)).unwrap();
    }
    let old: serde_json::Value =
        serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let mut new = old.clone();
    let object = new.as_object_mut().unwrap();
    let theta = object.remove("rope_theta").unwrap();
    object.remove("rope_scaling");
    object.insert(
        "rope_parameters".into(),
        serde_json::json!({"rope_type": "default", "rope_theta": theta}),
    );
    let dtype = object.remove("torch_dtype").unwrap();
    object.insert("dtype".into(), dtype);
    let before =
        Source::open(&model.display().to_string()).unwrap().architecture().unwrap().clone();
    fs::write(model.join("config.json"), new.to_string()).unwrap();
    assert_eq!(
        Source::open(&model.display().to_string()).unwrap().architecture().unwrap(),
        &before
    );
}
