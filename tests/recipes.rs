//! Recipes as mergekit's users have them: what they say is followed, and what is not is refused by its key.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{golden, json};
use dam_prelude::candle_core::{Device, Tensor, safetensors};
use dam_prelude::{Error, Models, load};

fn models() -> Models {
    load(["base", "model0", "model1", "model2"].map(|name| golden(name).display().to_string())).unwrap()
}

fn recipe(directory: &Path, text: &str) -> PathBuf {
    let file = directory.join("recipe.yml");
    fs::write(&file, text).unwrap();
    file
}

/// The tensor `name` of what the recipe makes, and of `model`.
fn tensor(directory: &Path, text: &str, name: &str) -> Vec<f32> {
    let merged = models().merge_recipe(recipe(directory, text)).unwrap();
    let out = tempfile::tempdir_in(directory).unwrap();
    stored(&merged.bake(out.path().join("out")).unwrap().path, name)
}

fn stored(directory: &Path, name: &str) -> Vec<f32> {
    let found: Tensor = safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap().remove(name).unwrap();
    found.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(found: &[f32], expected: impl IntoIterator<Item = f32>) {
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(0.1), "{a} and {b}");
    }
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";
const NORM: &str = "model.norm.weight";

/// A model's own entry goes before the slice, and the slice before the recipe; a filter that is for another
/// tensor leaves the word to the next.
#[test]
fn the_nearest_word_counts() {
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
fn layers_are_stacked_and_the_configuration_says_so() {
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

    // It runs as it is, and as it was written.
    let files = vec![golden("data0.jsonl").display().to_string()];
    let written = again.merge_named("passthrough", &[]).unwrap();
    assert_eq!(merged.eval(&files).unwrap().data["data0"], written.eval(&files).unwrap().data["data0"]);
}

#[test]
fn models_are_loaded_sources_or_lie_beside_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["model0", "model1", "base"] {
        common::copy_checkpoint(name, &dir.path().join("models").join(name));
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
    let (replies, ok) =
        json(dir.path(), "merge recipe.yml out; merge models/recipe.yaml out2; load models/model0; merge recipe.yml");
    assert!(ok, "{replies:?}");
    assert_eq!(
        fs::read(dir.path().join("out/model.safetensors")).unwrap(),
        fs::read(dir.path().join("out2/model.safetensors")).unwrap()
    );
    let config = fs::read_to_string(dir.path().join("out/config.json")).unwrap();
    assert!(config.contains("bfloat16"), "{config}");
    assert_eq!(replies[0]["base"], "base");
    assert!(replies[0]["notes"][0].as_str().unwrap().contains("`density` of `models/base` has no effect"), "{replies:?}");
    let card = fs::read_to_string(dir.path().join("out/README.md")).unwrap();
    assert!(card.contains("```yaml") && card.contains("merge_method: ties"));
}

#[test]
fn what_is_not_followed_is_refused_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let two = "models: [{model: model0}, {model: model1}]\n";
    let bad = [
        ("models: [}", "", "is not valid YAML"),
        ("- 1", "", "expected keys and values"),
        (two, "merge_method", "it is missing"),
        ("merge_method: tees\nmodels: []", "", "unknown method `tees`"),
        ("merge_method: linear\nmodels: []", "models", "expected a list"),
        ("merge_method: linear", "models", "either `models` or `slices`"),
        (&format!("merge_method: karcher\nmodules: {{}}\n{two}"), "modules", "not supported"),
        (&format!("merge_method: karcher\nchat_template: auto\n{two}"), "chat_template", "not supported"),
        (
            &format!("merge_method: karcher\ntokenizer: {{source: union, tokens: {{}}}}\n{two}"),
            "tokenizer.tokens",
            "not supported",
        ),
        (&format!("merge_method: karcher\ntokenizer_source: union\n{two}"), "tokenizer_source", "no tokenizer.json"),
        (&format!("merge_method: karcher\ntokenizer_source: base\n{two}"), "tokenizer_source", "no base_model"),
        (&format!("merge_method: karcher\ntokenizer_source: model2\n{two}"), "tokenizer_source", "not one of the models"),
        (&format!("merge_method: karcher\ndtype: int8\n{two}"), "dtype", "`int8`"),
        (&format!("merge_method: karcher\nparameters: {{weight: 1}}\n{two}"), "parameters.weight", "no such parameter"),
        (&format!("merge_method: karcher\nparameters: {{tol: []}}\n{two}"), "parameters.tol", "empty"),
        (&format!("merge_method: linear\n{two}"), "weight", "none of `model0`"),
        (&format!("merge_method: slerp\nbase_model: model0\n{two}"), "t", "slerp needs it"),
        (&format!("merge_method: slerp\nparameters: {{t: 0.5}}\n{two}"), "base_model", "slerp needs one"),
        (&format!("merge_method: model_stock\n{two}"), "base_model", "needs one"),
        (&format!("merge_method: passthrough\n{two}"), "models", "merges 1 models, not 2"),
        ("merge_method: karcher\nmodels: [{model: model0}, {model: model0}]", "models", "named twice"),
        ("merge_method: karcher\nmodels: [{model: {path: x}}]", "models[0].model", "expected a name"),
        ("merge_method: karcher\nmodels: [{model: model0, layer_range: [0, 1]}]", "models[0].layer_range", "not supported"),
        (
            "merge_method: slerp\nbase_model: model0\nmodels: [{model: model0}, {model: model1, parameters: {t: 1}}]",
            "models[1].parameters.t",
            "one for the whole merge",
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
            "as many layers",
        ),
        (
            "merge_method: ties\nbase_model: base\nslices: [{sources: [{model: model0, layer_range: [0, 2]}]}]\nparameters: {weight: 1}",
            "slices",
            "`base` is not among the sources",
        ),
        (
            "merge_method: karcher\nslices: [{sources: [{model: model0, layer_range: [0, 2]}], residual_weight: 1}]",
            "slices[0].residual_weight",
            "not supported",
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
    assert!(error.unwrap_err().to_string().contains("`2` is not a value for `density`"));
    let missing =
        models().merge_recipe(recipe(dir.path(), &format!("merge_method: karcher\n{two}").replace("model1", "./nowhere")));
    assert!(matches!(missing.unwrap_err(), Error::NotFound { .. }));
    let (replies, ok) = json(dir.path(), "merge recipe.yml weight=1 out");
    assert!(!ok && replies[0]["error"].as_str().unwrap().contains("not for a recipe"), "{replies:?}");
}

/// Aliases of aliases, a few hundred bytes that would be gigabytes.
#[test]
fn a_recipe_that_blows_up_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
    for i in 1..12 {
        let inner = vec![format!("*a{}", i - 1); 9].join(", ");
        text += &format!("a{i}: &a{i} [{inner}]\n");
    }
    let error = models().merge_recipe(recipe(dir.path(), &text)).unwrap_err();
    assert!(matches!(error, Error::Yaml { .. }), "{error:?}");
    let deep = format!("models: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(models().merge_recipe(recipe(dir.path(), &deep)).unwrap_err(), Error::Yaml { .. }));
    let long = format!("models: '{}'", "x".repeat(2 << 20));
    assert!(matches!(models().merge_recipe(recipe(dir.path(), &long)).unwrap_err(), Error::Yaml { .. }));
}

/// One model of a slice that others merge in stays as it is; slerp goes from the base, wherever it is named.
#[test]
fn a_model_alone_stays_and_slerp_goes_from_the_base() {
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
