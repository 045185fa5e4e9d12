//! mergekit recipes: supported keys work, and unsupported ones are errors that name the key.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{data, golden, json as verbs};
use dam_prelude::candle_core::{Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::{Columns, Error, Models, load};
use serde_json::{Value, json};

fn models() -> Models {
    load(["base", "model0", "model1", "model2"].map(|name| golden(name).display().to_string()))
        .unwrap()
}

fn recipe(directory: &Path, text: &str) -> PathBuf {
    let file = directory.join("recipe.yml");
    fs::write(&file, text).unwrap();
    file
}

/// The tensor `name` of the recipe's merge and of `model`.
fn tensor(directory: &Path, text: &str, name: &str) -> Vec<f32> {
    let merged = models().merge_recipe(recipe(directory, text)).unwrap();
    let out = tempfile::tempdir_in(directory).unwrap();
    stored(&merged.bake(out.path().join("out")).unwrap().path, name)
}

fn stored(directory: &Path, name: &str) -> Vec<f32> {
    let found: Tensor = safetensors::load(directory.join("model.safetensors"), &Device::Cpu)
        .unwrap()
        .remove(name)
        .unwrap();
    found.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(found: &[f32], expected: impl IntoIterator<Item = f32>) {
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(0.1), "{a} and {b}");
    }
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";
const NORM: &str = "model.norm.weight";

/// A model's own entry overrides the slice, and the slice overrides the recipe; if no filter
/// matches a tensor, the next level applies.
#[test]
fn the_most_specific_parameter_applies() {
    let dir = tempfile::tempdir().unwrap();
    let text = "
merge_method: linear
slices:
- sources:
  - model: model0
    layer_range: [0, 2]
    parameters:
      weight:
      - filter: mlp
        value: [0, 3]
  - {model: model1, layer_range: [0, 2]}
  parameters:
    weight:
    - {filter: up_proj, value: 1}
parameters:
  weight: 0.5
  normalize: false
dtype: float32
";
    let (a, b) = (stored(&golden("model0"), UP), stored(&golden("model1"), UP));
    close(&tensor(dir.path(), text, UP), a.iter().zip(&b).map(|(a, b)| 3.0 * a + b));
    let (a, b) = (stored(&golden("model0"), NORM), stored(&golden("model1"), NORM));
    close(&tensor(dir.path(), text, NORM), a.iter().zip(&b).map(|(a, b)| 0.5 * a + 0.5 * b));
}

#[test]
fn stacked_layers_are_in_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let text = "
merge_method: passthrough
slices:
- sources: [{model: model0, layer_range: [0, 2]}]
- sources: [{model: model1, layer_range: [0, 2], parameters: {scale: [{filter: up_proj, value: -2}]}}]
";
    let merged = models().merge_recipe(recipe(dir.path(), text)).unwrap();
    assert_eq!(merged.report().sources, ["model0", "model1"]);
    let out = dir.path().join("out");
    merged.bake(&out).unwrap();
    let again = load([out.display().to_string()]).unwrap();
    assert_eq!(again.report().0[0].layers, Some(4));
    let third = stored(&out, "model.layers.3.mlp.up_proj.weight");
    close(&third, stored(&golden("model1"), UP).iter().map(|x| -2.0 * x));
    assert_eq!(stored(&out, NORM), stored(&golden("model1"), NORM));

    // It runs in memory and after writing.
    let files = vec![golden("data0.jsonl").display().to_string()];
    let written = again.merge_named("passthrough", &[]).unwrap();
    assert_eq!(
        merged.eval(&files).unwrap().data["data0"],
        written.eval(&files).unwrap().data["data0"]
    );
}

#[test]
fn models_are_loaded_sources_or_paths_next_to_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["model0", "model1", "base"] {
        crate::common::copy_checkpoint(name, &dir.path().join("models").join(name));
    }
    let text = "
merge_method: ties
base_model: models/base
models:
  - {model: models/model0, parameters: {weight: 1, density: 0.5}}
  - {model: models/model1, parameters: {weight: [1, 0.5]}}
  - {model: models/base, parameters: {density: 0.1}}
parameters: {int8_mask: true, normalize: true}
out_dtype: bfloat16
dtype: float32
";
    fs::write(dir.path().join("models/recipe.yaml"), text.replace("models/", "")).unwrap();
    recipe(dir.path(), text);
    let (replies, ok) = verbs(
        dir.path(),
        "merge recipe.yml out; merge models/recipe.yaml out2; load models/model0; merge recipe.yml",
    );
    assert!(ok, "{replies:?}");
    assert_eq!(
        fs::read(dir.path().join("out/model.safetensors")).unwrap(),
        fs::read(dir.path().join("out2/model.safetensors")).unwrap()
    );
    let config = fs::read_to_string(dir.path().join("out/config.json")).unwrap();
    assert!(config.contains("bfloat16"), "{config}");
    assert_eq!(replies[0]["base"], "base");
    assert!(
        replies[0]["notes"][0]
            .as_str()
            .unwrap()
            .contains("`density` of `models/base` has no effect"),
        "{replies:?}"
    );
    let card = fs::read_to_string(dir.path().join("out/README.md")).unwrap();
    assert!(card.contains("```yaml") && card.contains("merge_method: ties"));
}

#[test]
fn unsupported_keys_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let two = "models: [{model: model0}, {model: model1}]\n";
    let bad = [
        ("models: [}", "", "is not valid YAML"),
        ("- 1", "", "expected keys and values"),
        (two, "merge_method", "it is missing"),
        ("merge_method: tees\nmodels: []", "", "unknown method `tees`"),
        ("merge_method: linear\nmodels: []", "models", "expected a list"),
        ("merge_method: linear", "models", "either `models` or `slices`"),
        (&format!("merge_method: karcher\nmodules: {{}}\n{two}"), "modules", "it is empty"),
        (
            &format!("merge_method: karcher\nmodules: {{default: {{slices: []}}}}\n{two}"),
            "modules",
            "also has `models`",
        ),
        (
            &format!("merge_method: karcher\nmodules: {{text_decoder: {{}}}}\n{two}"),
            "modules.text_decoder",
            "only the module",
        ),
        (
            &format!("merge_method: karcher\nchat_template: vicunia\n{two}"),
            "chat_template",
            "neither a template nor the name of one",
        ),
        (
            &format!("merge_method: karcher\ntokenizer: {{sourc: union}}\n{two}"),
            "tokenizer.sourc",
            "unknown key",
        ),
        (
            &format!("merge_method: karcher\ntokenizer: {{pad_to_multiple_of: 0}}\n{two}"),
            "tokenizer.pad_to_multiple_of",
            "`0`",
        ),
        (
            &format!(
                "merge_method: karcher\ntokenizer: {{tokens: {{a: {{source: {{kind: nil}}}}}}}}\n{two}"
            ),
            "tokenizer.tokens.a.source.kind",
            "expected zero or model_token",
        ),
        (
            &format!(
                "merge_method: karcher\ntokenizer: {{tokens: {{a: {{source: {{kind: model_token, model: b}}}}}}}}\n{two}"
            ),
            "tokenizer.tokens.a.source",
            "either `token` or `token_id`",
        ),
        (&format!("merge_method: karcher\nexperts: []\n{two}"), "experts", "mergekit-moe"),
        (&format!("merge_methd: karcher\n{two}"), "merge_methd", "unknown key"),
        (
            &format!("merge_method: karcher\ntokenizer_source: union\n{two}"),
            "tokenizer_source",
            "no tokenizer.json",
        ),
        (
            &format!("merge_method: karcher\ntokenizer_source: base\n{two}"),
            "tokenizer_source",
            "`base_model` is missing",
        ),
        (
            &format!("merge_method: karcher\ntokenizer_source: model2\n{two}"),
            "tokenizer_source",
            "not a merged model",
        ),
        (&format!("merge_method: karcher\ndtype: int8\n{two}"), "dtype", "`int8`"),
        (&format!("merge_method: karcher\ndtype: float64\n{two}"), "dtype", "`float64`"),
        (
            &format!("merge_method: karcher\nparameters: {{max_itr: 1}}\n{two}"),
            "parameters.max_itr",
            "no such parameter",
        ),
        (
            &format!("merge_method: karcher\nparameters: {{foo: 1}}\n{two}"),
            "parameters.foo",
            "no such parameter",
        ),
        (
            &format!("merge_method: karcher\nparameters: {{tol: []}}\n{two}"),
            "parameters.tol",
            "empty",
        ),
        (&format!("merge_method: linear\n{two}"), "weight", "no value of `model0` applies"),
        (&format!("merge_method: slerp\nbase_model: model0\n{two}"), "t", "slerp needs it"),
        (
            &format!("merge_method: slerp\nparameters: {{t: 0.5}}\n{two}"),
            "base_model",
            "slerp needs a base model",
        ),
        (&format!("merge_method: model_stock\n{two}"), "base_model", "needs a base model"),
        (&format!("merge_method: passthrough\n{two}"), "models", "merges 1 models, not 2"),
        (
            "merge_method: karcher\nmodels: [{model: model0}, {model: model0}]",
            "models",
            "named twice",
        ),
        (
            "merge_method: karcher\nmodels: [{model: {model: 3.5}}, {model: {model: [x]}}]",
            "models[1].model.model",
            "a model",
        ),
        (
            "merge_method: karcher\nmodels: [{model: {lora: x}}]",
            "models[0].model.model",
            "it is missing",
        ),
        (
            "merge_method: karcher\nmodels: [{model: model0, layer_range: [0, 1]}, {model: model1}]",
            "models",
            "merges whole models",
        ),
        (
            &format!("name: x\nmerge_method: karcher\n{two}---\nname: y"),
            "merge_method",
            "it is missing",
        ),
        ("", "", "it is empty"),
        (
            "merge_method: slerp\nbase_model: model0\nmodels: [{model: model0}, {model: model1, parameters: {t: 1}}]",
            "models[1].parameters.t",
            "applies to the whole merge",
        ),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: model0, layer_range: [1, 3]}]}]",
            "layer_range",
            "has 2 layers, not 3",
        ),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: model0, layer_range: [1, 1]}]}]",
            "slices[0].sources[0].layer_range",
            "expected the first layer",
        ),
        (
            "merge_method: karcher\nslices: [{sources: [{model: model0, layer_range: [0, 2]}, {model: model1, layer_range: [0, 1]}]}]",
            "layer_range",
            "different numbers of layers",
        ),
        (
            "merge_method: ties\nbase_model: base\nslices: [{sources: [{model: model0, layer_range: [0, 2]}]}]\nparameters: {weight: 1}",
            "slices",
            "`base` is not among the sources",
        ),
    ];
    for (text, key, reason) in bad {
        let error = models().merge_recipe(recipe(dir.path(), text)).unwrap_err();
        assert!(error.to_string().contains(reason) && error.hint().is_some(), "{text}: {error:?}");
        if let Error::Recipe { key: found, .. } = &error {
            assert!(found == key || key.is_empty(), "{text}: {found}");
        }
    }
    let error = models().merge_recipe(recipe(
        dir.path(),
        "merge_method: ties\nbase_model: base\nmodels: [{model: model0, parameters: {weight: 1, density: 2}}]",
    ));
    assert!(error.unwrap_err().to_string().contains("invalid value `2` for `density`"));
    let missing = models().merge_recipe(recipe(
        dir.path(),
        &format!("merge_method: karcher\n{two}").replace("model1", "./nowhere"),
    ));
    assert!(matches!(missing.unwrap_err(), Error::NotFound { .. }));
    let (replies, ok) = verbs(dir.path(), "merge recipe.yml weight=1 out");
    assert!(
        !ok && replies[0]["error"]
            .as_str()
            .unwrap()
            .contains("`weight` does not apply to a recipe"),
        "{replies:?}"
    );
}

/// Aliases of aliases: a few hundred bytes that would expand to gigabytes.
#[test]
fn nested_aliases_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
    for i in 1..12 {
        let inner = vec![format!("*a{}", i - 1); 9].join(", ");
        text += &format!("a{i}: &a{i} [{inner}]\n");
    }
    let error = models().merge_recipe(recipe(dir.path(), &text)).unwrap_err();
    assert!(matches!(error, Error::Yaml { .. }), "{error:?}");
    let deep = format!("models: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(
        models().merge_recipe(recipe(dir.path(), &deep)).unwrap_err(),
        Error::Yaml { .. }
    ));
    let long = format!("models: '{}'", "x".repeat(2 << 20));
    assert!(matches!(
        models().merge_recipe(recipe(dir.path(), &long)).unwrap_err(),
        Error::Yaml { .. }
    ));
}

/// A slice with a single model is passed through; slerp starts at the base, wherever it is listed.
#[test]
fn a_single_model_is_unchanged_and_slerp_starts_at_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let text = "
merge_method: slerp
base_model: model1
slices:
- sources: [{model: model0, layer_range: [0, 1]}, {model: model1, layer_range: [0, 1]}]
- sources: [{model: model0, layer_range: [1, 2]}]
parameters: {t: 0}
";
    assert_eq!(tensor(dir.path(), text, UP), stored(&golden("model0"), UP));
    let first = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(tensor(dir.path(), text, first), stored(&golden("model1"), first));
}

/// The merge of a recipe in `tests/data/recipes`, baked into `directory`.
fn followed(name: &str, directory: &Path) -> (PathBuf, Vec<String>) {
    let merged =
        Models::default().merge_recipe(data("recipes").join(format!("{name}.yml"))).unwrap();
    let notes = merged.report().notes;
    (merged.bake(directory.join(name)).unwrap().path, notes)
}

fn json_of(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Tensors, configurations, tokenizers and chat templates as written by mergekit 0.1.5
/// (`tests/data/recipes/make.py`).
#[test]
fn merges_agree_with_mergekit() {
    let dir = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(data("recipes")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e != "yml") {
            continue;
        }
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let (out, _) = followed(&name, dir.path());
        let found = safetensors::load(out.join("model.safetensors"), &Device::Cpu).unwrap();
        // mergekit writes names with the prefix of the whole model, which transformers reads the
        // same way.
        let bare =
            |name: String| name.strip_prefix("transformer.").map_or(name.clone(), str::to_owned);
        let found: HashMap<String, Tensor> =
            found.into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
        let expected = safetensors::load(file.with_extension("safetensors"), &Device::Cpu).unwrap();
        let tensors = |all: &HashMap<String, Tensor>| all.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(tensors(&found), tensors(&expected), "{name}");
        for (tensor, expected) in expected {
            assert_eq!(found[&tensor].dims(), expected.dims(), "{name}, {tensor}");
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (a, b) in values(&found[&tensor]).iter().zip(values(&expected)) {
                // mergekit divides by `1 + cos` in f32, which is nearly 0 for opposite task
                // vectors.
                let relative = if name == "stock_opposed" { 1e-5 } else { 1e-6 };
                assert!(
                    (a - b).abs() <= relative * b.abs().max(0.5),
                    "{name}, {tensor}: {a} and {b}"
                );
            }
        }
        let (expected, config) =
            (json_of(&file.with_extension("json")), json_of(&out.join("config.json")));
        for key in ["model_type", "num_hidden_layers", "n_layer", "vocab_size", "rms_norm_eps"] {
            assert_eq!(config[key], expected["config"][key], "{name}: {key}");
        }
        let theta = &expected["config"]["rope_parameters"]["rope_theta"];
        assert!(
            theta.is_null() || config["rope_theta"].as_f64() == theta.as_f64(),
            "{name}: {theta}"
        );
        assert_eq!(config["sliding_window"], expected["config"]["sliding_window"], "{name}");
        if let Some(tokens) = expected["tokens"].as_object().filter(|tokens| !tokens.is_empty()) {
            let source = Source::open(&out.display().to_string()).unwrap();
            let vocabulary = source.tokenizer().unwrap().get_vocab(true);
            let ids: HashMap<String, u32> =
                tokens.iter().map(|(t, id)| (t.clone(), id.as_u64().unwrap() as u32)).collect();
            assert_eq!(vocabulary, ids, "{name}");
            if let Some(template) = expected["chat_template"].as_str() {
                assert_eq!(source.chat_template().map(str::trim), Some(template.trim()), "{name}");
            }
        }
        names.push(name);
    }
    assert_eq!(names.len(), 19, "{names:?}");
}

#[test]
fn static_merges_name_the_source_of_their_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let (out, notes) = followed("three_mistrals", dir.path());
    let text = notes.join("\n");
    for word in [
        "configuration of `mistral`",
        "rope_theta is 10000 in `mistral` and 1000000 in `instruct`",
        "sliding_window is 32",
    ] {
        assert!(text.contains(word), "{text}");
    }
    assert!(!text.contains("medical"), "{text}");
    let file = dir.path().join("data.jsonl");
    fs::write(&file, "{\"input_ids\": [3, 4, 5, 6, 7]}\n").unwrap();
    let files = [file.display().to_string()];
    let merged = Models::default().merge_recipe(data("recipes/three_mistrals.yml")).unwrap();
    let written =
        load([out.display().to_string()]).unwrap().merge_named("passthrough", &[]).unwrap();
    assert_eq!(merged.eval(&files).unwrap().data, written.eval(&files).unwrap().data);

    // With verbs: the base's configuration, else the first source's; training is rejected.
    let place = |name: &str| data("recipes").join(name).display().to_string();
    let models =
        load([format!("base={}", place("mistral")), place("instruct"), place("medical")]).unwrap();
    assert!(
        models
            .to_string()
            .contains("instruct: max_position_embeddings is 256, but 64 in base; rms_norm_eps is"),
        "{models}"
    );
    let baked =
        models.merge_named("task_arithmetic", &[]).unwrap().bake(dir.path().join("base")).unwrap();
    assert_eq!(json_of(&baked.path.join("config.json"))["rope_theta"], 10000.0);
    let models = load([place("instruct"), place("medical")]).unwrap();
    let baked = models.merge_named("linear", &[]).unwrap().bake(dir.path().join("first")).unwrap();
    assert_eq!(json_of(&baked.path.join("config.json"))["rope_theta"], 1000000.0);
    let error = models.wrap(Columns::default()).unwrap_err();
    let text = format!("{error:?}");
    assert!(
        text.contains("`instruct` and `medical` cannot be trained together: norm epsilon"),
        "{text}"
    );
    assert!(text.contains("merge linear"), "{text}");
}

/// Ignored keys are noted, keys that hold anchors are not, and all of mergekit's forms of model
/// references work.
#[test]
fn keys_without_effect_are_noted_and_all_model_references_work() {
    let dir = tempfile::tempdir().unwrap();
    crate::common::copy_checkpoint("model0", &dir.path().join("m0"));
    crate::common::copy_checkpoint("model1", &dir.path().join("m1"));
    let plain = "merge_method: linear\nmodels: [{model: m0, parameters: {weight: 1}}, {model: m1, parameters: {weight: 3}}]\n";
    let long = "
x-weights: &weights {weight: 1}
_more: 1
name: tried
seed: 3
merge_method: linear
models:
- model: {model: {path: m0, revision: main}, override_architecture: LlamaForCausalLM}
  layer_range: [0, 2]
  parameters: *weights
- model: m1@v2
  parameters: {weight: '3', density: 0.5}
parameters: {int8_mask: yes, t: 0.5, normalize: 1.0}
residual_weight: 1
";
    let merged = |text: &str| Models::default().merge_recipe(recipe(dir.path(), text)).unwrap();
    let (a, b) = (merged(plain), merged(long));
    let bytes = |merged: &dam_prelude::Merged, name: &str| {
        fs::read(merged.bake(dir.path().join(name)).unwrap().path.join("model.safetensors"))
            .unwrap()
    };
    assert_eq!(bytes(&a, "a"), bytes(&b, "b"));
    let notes = b.report().notes.join("\n");
    for word in [
        "`seed`",
        "`residual_weight`",
        "override_architecture",
        "`models[1].parameters.density`",
        "int8_mask",
        "parameters.t`",
    ] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    assert!(
        !notes.contains("x-weights") && !notes.contains("_more") && a.report().notes.is_empty(),
        "{notes}"
    );
}

#[test]
fn recipes_use_each_other_by_name_and_leave_no_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["model0", "model1", "model2"] {
        crate::common::copy_checkpoint(name, &dir.path().join(name));
    }
    let one = |name: &str, a: &str, b: &str| {
        let name = if name.is_empty() { String::new() } else { format!("name: {name}\n") };
        format!("{name}merge_method: linear\nmodels: [{a}, {b}]\nparameters: {{weight: 1}}\n")
    };
    let text = |documents: &[String]| documents.join("---\n");
    let make = |text: &str| Models::default().merge_recipe(recipe(dir.path(), text));
    // The recipe without a name is the result, wherever it is; the recipes it uses are made first.
    let merged =
        make(&text(&[one("", "both", "model2"), one("both", "model0", "model1")])).unwrap();
    let [a, b, c] = ["model0", "model1", "model2"].map(|name| stored(&golden(name), UP));
    let out = merged.bake(dir.path().join("out")).unwrap().path;
    close(&stored(&out, UP), (0..a.len()).map(|i| (a[i] + b[i]) / 4.0 + c[i] / 2.0));
    let circle = make(&text(&[one("p", "q", "model0"), one("q", "p", "model1")])).unwrap_err();
    assert!(
        matches!(circle, Error::NotFound { .. }) && circle.to_string().contains('q'),
        "{circle:?}"
    );
    let twice =
        make(&text(&[one("p", "model0", "model1"), one("p", "model0", "model2")])).unwrap_err();
    assert!(
        twice.to_string().contains("two recipes are called `p`") && twice.hint().is_some(),
        "{twice:?}"
    );
    let none =
        make(&text(&[one("", "model0", "model1"), one("", "model0", "model2")])).unwrap_err();
    assert!(none.to_string().contains("two recipes have no name"), "{none:?}");
}

/// A checkpoint of `family` with these tensors, each filled with its own number from `start` on.
fn checkpoint(directory: &Path, config: &Value, shapes: &[(String, Vec<usize>)], start: f32) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let tensor = |(i, (name, shape)): (usize, &(String, Vec<usize>))| {
        (name.clone(), Tensor::full(start + i as f32, shape.as_slice(), &Device::Cpu).unwrap())
    };
    let tensors: HashMap<String, Tensor> = shapes.iter().enumerate().map(tensor).collect();
    safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
}

/// `[tensor, ...]` of layers 0.. under a prefix.
fn layers(prefix: &str, count: usize, rests: &[&str]) -> Vec<(String, Vec<usize>)> {
    let one = |layer: usize| {
        rests.iter().map(move |rest| (format!("{prefix}.{layer}.{rest}"), vec![2, 3]))
    };
    (0..count).flat_map(one).collect()
}

/// Layers 0 and 1 of `a` and 1 of `b`, stacked: names and the number of layers, for any family.
#[test]
fn layers_of_any_family_stack() {
    let dir = tempfile::tempdir().unwrap();
    let text = "
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [1, 2]}]
";
    let moe = layers(
        "model.layers",
        2,
        &["mlp.experts.0.up_proj.weight", "mlp.experts.1.up_proj.weight", "mlp.gate.weight"],
    );
    let bert =
        layers("bert.encoder.layer", 2, &["attention.self.query.weight", "output.dense.weight"]);
    let opt = layers("model.decoder.layers", 2, &["fc1.weight"]);
    let llava = [
        layers("vision_tower.vision_model.encoder.layers", 2, &["mlp.fc1.weight"]),
        layers("language_model.model.layers", 2, &["mlp.up_proj.weight"]),
        vec![("multi_modal_projector.linear_1.weight".into(), vec![2, 2])],
    ]
    .concat();
    let neo = layers("transformer.h", 2, &["attn.attention.k_proj.weight"]);
    let cases = [
        (
            json!({"model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 2, "mlp_only_layers": [1]}),
            moe,
            "model.layers",
        ),
        (json!({"model_type": "bert", "num_hidden_layers": 2}), bert, "bert.encoder.layer"),
        (
            json!({"model_type": "opt", "num_hidden_layers": 2, "eos_token_id": [1, 2]}),
            opt,
            "model.decoder.layers",
        ),
        (
            json!({"model_type": "llava", "text_config": {"num_hidden_layers": 2, "layer_types": ["x", "y"]}, "vision_config": {"num_hidden_layers": 2}}),
            llava,
            "language_model.model.layers",
        ),
        (
            json!({"model_type": "gpt_neo", "num_layers": 2, "attention_layers": ["global", "local"]}),
            neo,
            "transformer.h",
        ),
    ];
    for (i, (config, tensors, stack)) in cases.iter().enumerate() {
        let place = dir.path().join(i.to_string());
        let all = [
            &tensors[..],
            &[
                ("model.embed_tokens.weight".into(), vec![5, 3]),
                ("final_norm.weight".into(), vec![3]),
            ],
        ]
        .concat();
        checkpoint(&place.join("a"), config, &all, 1.0);
        checkpoint(&place.join("b"), config, &all, 101.0);
        let merged = Models::default().merge_recipe(recipe(&place, text)).unwrap();
        let out = merged.bake(place.join("out")).unwrap().path;
        let read = |path: &Path| -> HashMap<String, f32> {
            let all = safetensors::load(path.join("model.safetensors"), &Device::Cpu).unwrap();
            all.into_iter()
                .map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]))
                .collect()
        };
        let (a, b, found) = (read(&place.join("a")), read(&place.join("b")), read(&out));
        let mut expected = a.clone();
        for (name, value) in &b {
            if let Some(rest) = name.strip_prefix(&format!("{stack}.1.")) {
                expected.insert(format!("{stack}.2.{rest}"), *value);
            }
        }
        // Tensors after the layers come from the last slice.
        expected.insert("final_norm.weight".into(), b["final_norm.weight"]);
        if config["model_type"] == "llava" {
            expected.insert(
                "multi_modal_projector.linear_1.weight".into(),
                b["multi_modal_projector.linear_1.weight"],
            );
        }
        assert_eq!(found, expected, "{config}");
        let written = json_of(&out.join("config.json"));
        match written["model_type"].as_str().unwrap() {
            "llava" => {
                let expected = json!({"num_hidden_layers": 3, "layer_types": ["x", "y", "y"]});
                assert_eq!(
                    (&written["text_config"], &written["vision_config"]["num_hidden_layers"]),
                    (&expected, &json!(2))
                );
                assert!(
                    merged
                        .report()
                        .notes
                        .join("")
                        .contains("`vision_tower.vision_model.encoder.layers`")
                );
            }
            "gpt_neo" => {
                assert_eq!(
                    (&written["num_layers"], &written["attention_layers"]),
                    (&json!(3), &json!(["global", "local", "local"]))
                )
            }
            "qwen3_moe" => assert_eq!(
                (
                    &written["num_hidden_layers"],
                    &written["mlp_only_layers"],
                    &written["num_experts"]
                ),
                (&json!(3), &json!([1, 2]), &json!(2))
            ),
            _ => assert_eq!(written["num_hidden_layers"], 3),
        }
        if let Some(eos) = written.get("eos_token_id") {
            assert_eq!(&written["eos_token_id"], eos);
        }
    }

    // Two candidate stacks, and none.
    let t5 = [
        layers("encoder.block", 2, &["layer.0.q.weight"]),
        layers("decoder.block", 2, &["layer.0.q.weight"]),
    ]
    .concat();
    let none = vec![("embed.weight".to_owned(), vec![5, 3])];
    for (name, tensors, word) in [
        ("t5", t5, "`decoder.block` (2 layers), `encoder.block` (2 layers)"),
        ("none", none, "no numbered layers"),
    ] {
        let place = dir.path().join(name);
        for model in ["a", "b"] {
            checkpoint(
                &place.join(model),
                &json!({"model_type": name, "num_layers": 2, "num_decoder_layers": 2}),
                &tensors,
                0.0,
            );
        }
        let error = Models::default().merge_recipe(recipe(&place, text)).unwrap_err();
        assert!(
            error.to_string().contains(word) && error.hint().unwrap().contains("`models`"),
            "{error:?}"
        );
    }
}

/// A family whose attention depends on the layer number: the configuration writes it out.
#[test]
fn layers_with_numbered_attention_keep_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = data("families/gemma2");
    let depth = json_of(&model.join("config.json"))["num_hidden_layers"].as_u64().unwrap();
    let text = format!(
        "merge_method: passthrough\nslices:\n- sources: [{{model: {0}, layer_range: [0, {depth}]}}]\n- sources: [{{model: {0}, layer_range: [0, 1]}}]\n- sources: [{{model: {0}, layer_range: [0, 1]}}]\n",
        model.display()
    );
    let merged = Models::default().merge_recipe(recipe(dir.path(), &text)).unwrap();
    let out = merged.bake(dir.path().join("out")).unwrap().path;
    let of = |path: &Path| {
        Source::open(&path.display().to_string()).unwrap().architecture().unwrap().attention.clone()
    };
    let (old, new) = (of(&model), of(&out));
    assert_eq!(new, [&old[..], &old[..1], &old[..1]].concat());
}

#[test]
fn slices_accept_deeper_models() {
    let dir = tempfile::tempdir().unwrap();
    let text = "
merge_method: passthrough
slices:
- sources: [{model: model0, layer_range: [0, 2]}]
- sources: [{model: model1, layer_range: [0, 2]}]
";
    models().merge_recipe(recipe(dir.path(), text)).unwrap().bake(dir.path().join("four")).unwrap();
    let more = "merge_method: passthrough\nslices: [{sources: [{model: model0, layer_range: [0, 1]}]}, {sources: [{model: four, layer_range: [3, 4]}]}]";
    let out = models()
        .merge_recipe(recipe(dir.path(), more))
        .unwrap()
        .bake(dir.path().join("out"))
        .unwrap()
        .path;
    assert_eq!(stored(&out, UP), stored(&golden("model1"), UP));
    let whole = "merge_method: linear\nmodels: [model0, four]\nparameters: {weight: 1}";
    let error = models().merge_recipe(recipe(dir.path(), whole)).unwrap_err();
    assert!(error.to_string().contains("only `four` has tensor `model.layers.2"), "{error:?}");
}

#[test]
fn a_chat_template_of_a_recipe_is_baked_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let models = "merge_method: karcher\nmodels: [A, B]\n"
        .replace('A', &data("recipes/a").display().to_string());
    let models = models.replace('B', &data("recipes/b").display().to_string());
    let inline = "'{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}'";
    for (template, word) in
        [("llama3", "<|start_header_id|>"), ("alpaca", "Instruction"), (inline, "[{{ m.role }}]")]
    {
        let file = recipe(dir.path(), &format!("{models}chat_template: {template}\n"));
        let merged = Models::default().merge_recipe(file).unwrap();
        let out = merged
            .bake(dir.path().join(word.replace(|c: char| !c.is_alphanumeric(), "")))
            .unwrap()
            .path;
        assert!(fs::read_to_string(out.join("chat_template.jinja")).unwrap().contains(word));
        assert!(json_of(&out.join("tokenizer_config.json")).get("chat_template").is_none());
        assert!(merged.models().source("a").unwrap().chat_template().unwrap().contains(word));
    }
}

/// The merge runs with a vocabulary that a recipe truncates or pads.
#[test]
fn a_merge_with_another_vocabulary_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.jsonl");
    fs::write(&file, "{\"text\": \"w3 <x> w5 <y> w7 w8\"}\n").unwrap();
    let files = [file.display().to_string()];
    for name in ["union_tokens", "base_tokens", "given_tokens"] {
        let merged =
            Models::default().merge_recipe(data("recipes").join(format!("{name}.yml"))).unwrap();
        let (out, notes) = followed(name, dir.path());
        let written =
            load([out.display().to_string()]).unwrap().merge_named("passthrough", &[]).unwrap();
        let (a, b) = (merged.eval(&files).unwrap(), written.eval(&files).unwrap());
        assert_eq!(a.data, b.data, "{name}");
        assert!(
            notes.iter().any(|note| note.contains("changes the vocabulary")),
            "{name}: {notes:?}"
        );
        assert_eq!(
            notes.iter().any(|note| note.contains("are dropped")),
            name == "base_tokens",
            "{name}: {notes:?}"
        );
    }
}

#[test]
fn missing_rows_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let models = ["x", "yx", "y"].map(|name| data("recipes").join(name).display().to_string());
    let bad = |tokens: &str| {
        let text = format!(
            "merge_method: karcher\nmodels: [{}]\ntokenizer: {{source: YX, tokens: {{{tokens}}}}}\n",
            models.join(", ")
        );
        let text = text.replace("YX", &models[1]);
        Models::default().merge_recipe(recipe(dir.path(), &text)).unwrap_err()
    };
    for (tokens, key, reason) in [
        ("<x>: {}", "tokenizer.tokens.<x>.source", "but no source is given"),
        (
            "<x>: {source: zero}",
            "tokenizer.tokens.<x>.source",
            "`zero` is not merged into the embedding",
        ),
        ("<q>: {source: YX}", "tokenizer.tokens.<q>.source", "has no token `<q>`"),
        (
            "<x>: {source: {kind: model_token, model: YX, token_id: 22}}",
            "tokenizer.tokens.<x>.source",
            "row 22 is out of range",
        ),
        (
            "<x>: {source: {kind: model_token, model: YX, token: <q>}}",
            "tokenizer.tokens.<x>.source",
            "no token `<q>`",
        ),
    ] {
        let error = bad(tokens);
        assert!(
            error.to_string().contains(reason) && error.hint().is_some(),
            "{tokens}: {error:?}"
        );
        assert!(
            matches!(&error, Error::Recipe { key: found, .. } if found == key),
            "{tokens}: {error:?}"
        );
    }
}
