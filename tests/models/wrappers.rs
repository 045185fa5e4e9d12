//! Multimodal models around a text decoder: the decoder runs and trains as in transformers, the
//! rest is merged or copied as requested, and the baked checkpoint has the names and configuration
//! of its sources. The models and numbers were made by `tests/data/wrappers/make.py`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::data;
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::{Source, TensorSpec};
use dam_prelude::data::Batch;
use dam_prelude::methods::Linear;
use dam_prelude::model::{Decoder, SourceWeights};
use dam_prelude::{Bake, BiasStart, Columns, Error, Models, Rest, load};
use serde_json::{Value, json};

const MODELS: [&str; 12] = [
    "gemma3",
    "mistral3",
    "llava",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "idefics3",
    "smolvlm",
    "llava_next",
    "llava_onevision",
    "vipllava",
    "internvl",
];

type Tensors = HashMap<String, Tensor>;

fn model_path(name: &str) -> PathBuf {
    data("wrappers").join(name)
}

fn open(directory: &Path) -> Source {
    Source::open(&directory.display().to_string()).unwrap()
}

fn tensors(directory: &Path) -> Tensors {
    safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap()
}

fn config(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap()
}

/// A copy of the model `name` in `directory` with changed tensors and configuration.
fn copy(
    name: &str,
    directory: PathBuf,
    change: impl Fn(Tensors) -> Tensors,
    configure: impl Fn(&mut Value),
) -> PathBuf {
    fs::create_dir_all(&directory).unwrap();
    safetensors::save(&change(tensors(&model_path(name))), directory.join("model.safetensors"))
        .unwrap();
    let mut config = config(&model_path(name));
    configure(&mut config);
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    directory
}

/// The in-memory names of transformers.
fn new_layout(tensors: Tensors) -> Tensors {
    let new = |name: String| {
        let (model, head) = ("language_model.model.", "language_model.lm_head.");
        if let Some(rest) = name.strip_prefix(model) {
            return format!("model.language_model.{rest}");
        }
        if let Some(rest) = name.strip_prefix(head) {
            return format!("lm_head.{rest}");
        }
        let of_text = |rest: &str| {
            ["layers.", "embed_tokens.", "norm."].iter().any(|part| rest.starts_with(part))
        };
        match name.strip_prefix("model.") {
            Some(rest) if of_text(rest) => format!("model.language_model.{rest}"),
            None if !name.starts_with("lm_head.") => format!("model.{name}"),
            _ => name,
        }
    };
    tensors.into_iter().map(|(name, tensor)| (new(name), tensor)).collect()
}

/// Another fine-tune: every weight slightly larger.
fn scaled(tensors: Tensors) -> Tensors {
    tensors.into_iter().map(|(name, tensor)| (name, (tensor * 1.25).unwrap())).collect()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
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

fn expected() -> (Tensor, Tensors) {
    let all = safetensors::load(data("wrappers/expected.safetensors"), &Device::Cpu).unwrap();
    (all["input_ids"].to_dtype(DType::U32).unwrap(), all)
}

fn pair(a: &Path, b: &Path) -> Models {
    load([format!("a={}", a.display()), format!("b={}", b.display())]).unwrap()
}

#[test]
fn text_logits_match_transformers() {
    let (ids, expected) = expected();
    for name in MODELS {
        println!("{name}");
        let source = open(&model_path(name));
        assert_close(&logits(&source, &ids), &expected[name], 1e-5);
        assert_eq!(source.family(), name);
        assert!(source.unused().is_empty() && !source.rest().is_empty(), "{:?}", source.unused());
        // Tensors outside the decoder belong to none of its layers.
        assert!(source.rest().iter().all(|spec| spec.layer().is_none()));
        let layers = source.tensors().iter().filter_map(TensorSpec::layer).max();
        assert_eq!(layers.unwrap() + 1, source.architecture().unwrap().layers);
        assert_eq!(source.tensors().len(), tensors(&model_path(name)).len());
    }
}

/// Files have the names of transformers 4, or its in-memory names.
#[test]
fn both_naming_schemes_are_read_and_can_be_merged() {
    let (ids, expected) = expected();
    let dir = tempfile::tempdir().unwrap();
    for name in MODELS {
        println!("{name}");
        let new = copy(name, dir.path().join(name), new_layout, |_| {});
        let source = open(&new);
        assert_close(&logits(&source, &ids), &expected[name], 1e-5);
        // The result has the names of the first source.
        let of = |directory: &Path| {
            tensors(directory).into_keys().collect::<std::collections::BTreeSet<_>>()
        };
        for (first, second) in [(model_path(name), new.clone()), (new.clone(), model_path(name))] {
            let merged = pair(&first, &second).merge(Linear::default()).unwrap();
            let written = merged.bake(dir.path().join(format!("{name}-{}", first == new))).unwrap();
            assert_eq!(of(&written.path), of(&first));
        }
    }
}

/// Merging a model with itself reproduces every tensor under its name, and the configuration.
#[test]
fn merging_a_model_with_itself_reproduces_it() {
    let (ids, expected) = expected();
    let dir = tempfile::tempdir().unwrap();
    for name in MODELS {
        println!("{name}");
        let models = pair(&model_path(name), &model_path(name));
        let dam = models.wrap(Columns { bias: BiasStart::Same, ..Columns::default() }).unwrap();
        let merged = models.merge(Linear::default()).unwrap();
        let written = [
            dam.bake(dir.path().join(format!("{name}-dam"))).unwrap(),
            merged.bake(dir.path().join(format!("{name}-linear"))).unwrap(),
        ];
        for written in written {
            let (before, after) = (tensors(&model_path(name)), tensors(&written.path));
            assert_eq!(after.len(), before.len());
            for (tensor, before) in before {
                assert_eq!(after[&tensor].dtype(), before.dtype());
                assert_close(&after[&tensor], &before, 1e-6);
            }
            assert_eq!(config(&written.path), config(&model_path(name)));
            assert_close(&logits(&open(&written.path), &ids), &expected[name], 1e-5);
        }
        // With another dtype, every part of the configuration names it.
        let options = Bake { dtype: Some("f32".into()), ..Bake::default() };
        let written = dam.bake_with(dir.path().join(format!("{name}-f32")), &options).unwrap();
        assert!(
            !config(&written.path).to_string().contains("bfloat16"),
            "{}",
            config(&written.path)
        );
    }
}

/// The decoder trains; the rest is handled as requested, with a note.
#[test]
fn the_decoder_trains_and_the_rest_is_handled_as_requested() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.jsonl");
    fs::write(&file, "{\"input_ids\": [1, 2, 3, 4, 5, 6, 7, 8]}\n{\"input_ids\": [9, 8, 7]}\n")
        .unwrap();
    for name in MODELS {
        println!("{name}");
        let other = copy(name, dir.path().join(name), scaled, |_| {});
        let specs = [("a", &model_path(name)), ("b", &other), ("base", &other)];
        let mut models =
            load(specs.map(|(name, place)| format!("{name}={}", place.display()))).unwrap();
        for source in ["a", "b"] {
            models.data(source, &file.display().to_string()).unwrap();
        }
        (models.settings.batch_size, models.settings.lr) = (2, 1e-2);
        for rest in Rest::ALL {
            let dam = models.wrap(Columns { rest, ..Columns::default() }).unwrap();
            let note = "outside the text decoder";
            assert!(
                dam.report().notes.iter().any(|n| n.contains(note)),
                "{:?}",
                dam.report().notes
            );
            dam.train(2).unwrap();
            let out = dir.path().join(format!("{name}-{}", rest.name()));
            let written = dam
                .bake_with(&out, &Bake { dtype: Some("f32".into()), ..Bake::default() })
                .unwrap();
            assert!(fs::read_to_string(out.join("README.md")).unwrap().contains(note));
            let (source, merged) = (open(&model_path(name)), tensors(&written.path));
            let stored = tensors(&model_path(name));
            assert_eq!(merged.len(), stored.len());
            let factor = match rest {
                Rest::Average => 1.125,
                Rest::Base => 1.25,
                Rest::First => 1.0,
            };
            let is_rest = |name: &str| {
                let known = name.strip_prefix("model.").unwrap_or(name);
                source.rest().iter().any(|spec| spec.name == known)
            };
            let mut moved = 0;
            for (tensor, before) in &stored {
                let before = before.to_dtype(DType::F32).unwrap();
                if is_rest(tensor) {
                    assert_close(&merged[tensor], &(before * factor).unwrap(), 5e-3);
                } else {
                    let apart =
                        (&merged[tensor] - (before * 1.125).unwrap()).unwrap().abs().unwrap();
                    moved += usize::from(values(&apart).iter().any(|x| *x > 1e-3));
                }
            }
            assert!(moved > 5, "{moved}");
            // The baked checkpoint has the logits of the trained merge.
            let losses = [dam.eval(&[file.display().to_string()]).unwrap(), {
                let baked =
                    load([format!("a={}", out.display()), format!("b={}", out.display())]).unwrap();
                let itself = baked.merge(Linear::default()).unwrap();
                itself.eval(&[file.display().to_string()]).unwrap()
            }];
            assert!((losses[0].mean_loss() - losses[1].mean_loss()).abs() < 1e-5, "{losses:?}");
        }
    }
    // `rest=base` needs a base.
    let models = pair(&model_path("llava"), &model_path("llava"));
    let error = models.wrap(Columns { rest: Rest::Base, ..Columns::default() }).unwrap_err();
    assert!(error.hint().unwrap().contains("rest=average"), "{error:?}");
}

/// A static merge includes the vision tower, and stacks only text layers.
#[test]
fn static_merges_include_everything_and_stack_text_layers() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["gemma3", "mistral3", "llava", "qwen2_5_vl", "qwen2_vl"] {
        println!("{name}");
        let other = copy(name, dir.path().join(name), scaled, |_| {});
        let merged = pair(&model_path(name), &other)
            .merge(Linear { weights: vec![3.0, 1.0], ..Linear::default() })
            .unwrap();
        let written = merged.bake(dir.path().join(format!("{name}-linear"))).unwrap();
        for (tensor, after) in tensors(&written.path) {
            let before = tensors(&model_path(name))[&tensor].to_dtype(DType::F32).unwrap();
            assert_close(&after, &(before * 1.0625).unwrap(), 1e-2);
        }
        if name == "gemma3" {
            continue;
        }
        let recipe = dir.path().join(format!("{name}.yml"));
        let source = |place: &Path, range: &str| {
            format!("  - sources: [{{model: {}, layer_range: {range}}}]\n", place.display())
        };
        let slices = source(&model_path(name), "[0, 2]") + &source(&other, "[1, 2]");
        fs::write(&recipe, format!("merge_method: passthrough\nslices:\n{slices}")).unwrap();
        let stacked = Models::default().merge_recipe(&recipe).unwrap();
        let written = stacked.bake(dir.path().join(format!("{name}-stacked"))).unwrap();
        let opened = open(&written.path);
        assert_eq!(opened.architecture().unwrap().layers, 3);
        assert_eq!(opened.rest(), open(&model_path(name)).rest());
        let (first, second, all) =
            (tensors(&model_path(name)), tensors(&other), tensors(&written.path));
        for (tensor, after) in &all {
            // The embedding and the vision tower come from the first slice, other tensors outside
            // layers from the last.
            let is_first = tensor.contains("embed")
                || tensor.split('.').any(|part| part.parse::<u32>().is_ok());
            let is_text = !opened.rest().iter().any(|r| r.name == *tensor);
            let is_layer = is_text && tensor.contains(".layers.");
            let expected = if is_layer && tensor.contains(".layers.2.") {
                &second[&tensor.replace(".layers.2.", ".layers.1.")]
            } else if is_layer || is_first {
                &first[tensor]
            } else {
                &second[tensor]
            };
            assert_eq!(values(after), values(expected), "{name}: {tensor}");
        }
    }
}

/// Filters in a recipe apply to names as stored in files.
#[test]
fn filters_apply_to_stored_names() {
    let dir = tempfile::tempdir().unwrap();
    let other = copy("llava", dir.path().join("llava"), scaled, |_| {});
    let recipe = dir.path().join("recipe.yml");
    let weight = "weight: [{filter: language_model, value: 3}, {value: 1}]";
    let (a, b) = (model_path("llava").display().to_string(), other.display());
    let models = format!(
        "  - {{model: {a}, parameters: {{{weight}}}}}\n  - {{model: {b}, parameters: {{weight: 1}}}}\n"
    );
    fs::write(&recipe, format!("merge_method: linear\nmodels:\n{models}")).unwrap();
    let written =
        Models::default().merge_recipe(&recipe).unwrap().bake(dir.path().join("out")).unwrap();
    for (tensor, after) in tensors(&written.path) {
        let factor = if tensor.starts_with("language_model.") { 1.0625 } else { 1.125 };
        let before = tensors(&model_path("llava"))[&tensor].to_dtype(DType::F32).unwrap();
        assert_close(&after, &(before * factor).unwrap(), 1e-2);
    }
}

/// The numbers of vocabulary rows and layers are written to the text configuration.
#[test]
fn a_larger_vocabulary_is_written_to_the_text_configuration() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["gemma3", "llava", "qwen2_5_vl", "qwen2_vl"] {
        let larger = |tensors: Tensors| -> Tensors {
            let grow = |(name, t): (String, Tensor)| match t.dims() {
                [64, 16] => (name, Tensor::cat(&[&t, &t.narrow(0, 0, 3).unwrap()], 0).unwrap()),
                _ => (name, t),
            };
            tensors.into_iter().map(grow).collect()
        };
        let set = |config: &mut Value| match config.get_mut("text_config") {
            Some(text) => text["vocab_size"] = json!(67),
            None => config["vocab_size"] = json!(67),
        };
        let other = copy(name, dir.path().join(name), larger, set);
        let written = pair(&model_path(name), &other)
            .merge(Linear::default())
            .unwrap()
            .bake(dir.path().join("out"))
            .unwrap();
        assert_eq!(open(&written.path).architecture().unwrap().vocabulary, 67, "{name}");
        let mut expected = config(&model_path(name));
        set(&mut expected);
        assert_eq!(config(&written.path), expected);
        fs::remove_dir_all(written.path).unwrap();
    }
}

/// Adapters use the current or former in-memory names of transformers.
#[test]
fn adapters_find_the_tensors_of_text_and_vision() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = dir.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    let settings =
        json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2.0, "target_modules": ["q_proj"]});
    fs::write(adapter.join("adapter_config.json"), settings.to_string()).unwrap();
    let before = open(&model_path("llava"));
    let value = |source: &Source, name: &str| {
        let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
        dam_prelude::model::Weights::weight(&weights, name).unwrap()
    };
    let vision =
        before.rest().iter().find(|t| t.name.ends_with("self_attn.q_proj.weight")).unwrap();
    let names = [
        (
            "model.language_model.layers.1.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj.weight",
            (16, 16),
        ),
        (
            "language_model.model.layers.1.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj.weight",
            (16, 16),
        ),
        (&*format!("model.{}", vision.name.trim_end_matches(".weight")), &*vision.name, (8, 8)),
    ];
    for (module, tensor, (rows, columns)) in names {
        let ones = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let parts = HashMap::from([
            (format!("base_model.model.{module}.lora_A.weight"), ones((1, columns))),
            (format!("base_model.model.{module}.lora_B.weight"), ones((rows, 1))),
        ]);
        safetensors::save(&parts, adapter.join("adapter_model.safetensors")).unwrap();
        let source =
            Source::open(&format!("{}+{}", model_path("llava").display(), adapter.display()))
                .unwrap();
        assert_close(&value(&source, tensor), &(value(&before, tensor) + 2.0).unwrap(), 1e-6);
    }
}

#[test]
fn models_that_differ_outside_their_text_decoder_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let fewer = |mut tensors: Tensors| {
        let name = tensors.keys().find(|name| name.contains("projector")).unwrap().clone();
        tensors.remove(&name);
        tensors
    };
    let other = copy("llava", dir.path().join("fewer"), fewer, |_| {});
    let error = load([model_path("llava"), other].map(|p| p.display().to_string())).unwrap_err();
    assert!(
        matches!(&error, Error::Incompatible { difference, .. } if difference.contains("multi_modal_projector")),
        "{error:?}"
    );
    // One tensor with two names.
    let twice = |mut tensors: Tensors| {
        let head = tensors["language_model.lm_head.weight"].clone();
        tensors.insert("lm_head.weight".into(), head);
        tensors
    };
    let error =
        Source::open(&copy("llava", dir.path().join("twice"), twice, |_| {}).display().to_string())
            .unwrap_err();
    assert!(
        matches!(&error, Error::TensorNames { reason, .. } if reason.contains("`lm_head.weight`")),
        "{error:?}"
    );
}

/// Integer tensors outside the decoder are copied from the first source.
#[test]
fn integer_tensors_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let name = "vision_tower.embeddings.position_ids";
    let with = |mut tensors: Tensors| {
        tensors.insert(name.into(), Tensor::new(&[[0i64, 1, 2, 3]], &Device::Cpu).unwrap());
        tensors
    };
    let place = copy("llava", dir.path().join("a"), with, |_| {});
    let models = pair(&place, &place);
    let written: BTreeMap<&str, PathBuf> = BTreeMap::from([
        (
            "dam",
            models.wrap(Columns::default()).unwrap().bake(dir.path().join("dam")).unwrap().path,
        ),
        (
            "linear",
            models.merge(Linear::default()).unwrap().bake(dir.path().join("linear")).unwrap().path,
        ),
    ]);
    for path in written.values() {
        assert_eq!(tensors(path)[name].to_vec2::<i64>().unwrap(), [[0, 1, 2, 3]]);
    }
}
