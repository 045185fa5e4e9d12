//! Static merges: mergekit's numbers, any family, no partial output, the same bytes with any number
//! of threads.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::common::{data, golden, json};
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::methods::{Sparsify, TaskVectors, breadcrumbs_ties, dare_ties, della, ties};
use dam_prelude::{Columns, Models, Nonlinearity, load};

fn loaded<const N: usize>(names: [&str; N]) -> Models {
    load(names.map(|name| golden(name).display().to_string())).unwrap()
}

fn three() -> Models {
    loaded(["base", "model0", "model1", "model2"])
}

fn tensors(directory: &Path) -> HashMap<String, Tensor> {
    safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Every recipe run with mergekit, and its output.
#[test]
fn every_recipe_agrees_with_mergekit() {
    let (dir, models) = (tempfile::tempdir().unwrap(), three());
    let mut recipes = 0;
    for entry in fs::read_dir(data("golden/mergekit")).unwrap() {
        let golden = entry.unwrap().path();
        let name = golden.file_name().unwrap().to_string_lossy().into_owned();
        let merged = models.merge_recipe(golden.join("recipe.yml")).unwrap();
        let found = tensors(&merged.bake(dir.path().join(&name)).unwrap().path);
        let expected =
            safetensors::load(golden.join("expected.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        let angular = ["slerp", "nuslerp", "karcher", "multislerp"]
            .iter()
            .any(|method| name.starts_with(method));
        // mergekit sums the L1 norms for rescaling in f32.
        let rescaled = ["ties_rescale", "breadcrumbs_ties"].contains(&name.as_str());
        let tolerance =
            if angular { 1e-5 } else { f32::EPSILON * if rescaled { 16.0 } else { 8.0 } };
        for (tensor, expected) in expected {
            for (a, b) in values(&found[&tensor]).iter().zip(values(&expected)) {
                assert!(
                    (a - b).abs() <= tolerance * b.abs().max(0.05),
                    "{name}, {tensor}: {a} and {b}"
                );
            }
        }
        recipes += 1;
    }
    assert_eq!(recipes, 26);
}

/// The bytes of a merge by tensor.
fn bytes(models: &Models, method: &TaskVectors, threads: usize, directory: &Path) -> Vec<u8> {
    let mut models = models.clone();
    models.settings.threads = threads;
    let written = models
        .merge(method.clone())
        .unwrap()
        .bake(directory.join(format!("{}{threads}", method.name)))
        .unwrap();
    fs::read(written.path.join("model.safetensors")).unwrap()
}

#[test]
fn draws_do_not_depend_on_threads_or_the_order_of_sources() {
    let dir = tempfile::tempdir().unwrap();
    let density = vec![0.5];
    for method in [
        TaskVectors { density: density.clone(), ..ties() },
        TaskVectors { density: density.clone(), ..dare_ties() },
        TaskVectors { density: density.clone(), ..della() },
        TaskVectors { density: density.clone(), ..breadcrumbs_ties() },
    ] {
        let models = three();
        let one = bytes(&models, &method, 1, dir.path());
        assert!(one == bytes(&models, &method, 3, dir.path()), "{}", method.name);

        // The sources in another order.
        let shuffled =
            loaded(["base", "model2", "model0", "model1"]).merge(method.clone()).unwrap();
        let found = tensors(&dir.path().join(format!("{}1", method.name)));
        let again = tensors(
            &shuffled.bake(dir.path().join(format!("{} shuffled", method.name))).unwrap().path,
        );
        for (name, tensor) in &found {
            for (a, b) in values(tensor).iter().zip(values(&again[name])) {
                // Sums of three values, each up to a few tenths, in another order.
                assert!(
                    (a - b).abs() <= 1e-6 * b.abs().max(0.1),
                    "{}, {name}: {a} and {b}",
                    method.name
                );
            }
        }
    }
    let seeded = |seed| TaskVectors {
        density: vec![0.5],
        sparsify: Sparsify::Random { seed },
        ..dare_ties()
    };
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    assert!(bytes(&three(), &seeded(0), 1, &a) != bytes(&three(), &seeded(1), 1, &b));
}

#[test]
fn a_merge_can_be_scored_without_writing_it() {
    let dir = tempfile::tempdir().unwrap();
    let verbs = "load base=builtin:base builtin:japanese builtin:math; merge ties density=0.5 weight=1,0.5; eval; eval --all; \
                 generate \"What is 12 plus 7?\" tokens=4; inspect model.norm.weight; bake out dtype=f32";
    let (replies, ok) = json(dir.path(), verbs);
    assert!(ok, "{replies:?}");
    assert_eq!(replies[1]["base"], "base");
    assert_eq!(replies[2]["scores"], replies[3]["scores"]);
    let rows = replies[3]["rows"].as_array().unwrap();
    assert_eq!(
        rows.iter().map(|row| row["model"].as_str().unwrap()).collect::<Vec<_>>(),
        ["base", "japanese", "math", "average", "ties"]
    );
    assert!(!replies[4]["text"].as_str().unwrap().is_empty());
    let norm = &replies[5]["tensors"][0]["sources"]["math"];
    assert!(
        norm["cosine"].as_f64().unwrap() > 0.9 && norm["relative"].as_f64().unwrap() > 0.0,
        "{norm}"
    );

    // The written merge equals the scored one.
    let out = dir.path().join("out");
    assert!(fs::read_to_string(out.join("README.md")).unwrap().contains("\"density\""));
    let one =
        load([format!("base={}", out.display()), "builtin:math".into(), "builtin:japanese".into()])
            .unwrap();
    let baked = one.merge_named("linear", &[("weight", "0,0,1"), ("base", "on")]).unwrap();
    assert_eq!(baked.inspect("model.norm.weight").unwrap().tensors[0].sources[2].1.relative, 0.0);
    let files = vec!["builtin:math-heldout".to_owned()];
    let tried = load(["base=builtin:base", "builtin:japanese", "builtin:math"]).unwrap();
    let tried =
        tried.merge(TaskVectors { density: vec![0.5], weight: vec![1.0, 0.5], ..ties() }).unwrap();
    let written = one.merge_named("linear", &[("weight", "1,0,0"), ("base", "on")]).unwrap();
    assert_eq!(tried.eval(&files).unwrap(), written.eval(&files).unwrap());
}

/// The greedy soup: the average of the sources that help.
#[test]
fn a_greedy_soup_adds_sources_that_do_not_lower_the_score() {
    let dir = tempfile::tempdir().unwrap();
    let load = "load builtin:japanese builtin:math builtin:sql";
    let (replies, ok) = json(
        dir.path(),
        &format!(
            "{load}; merge greedy_soup data=builtin:math-heldout out; merge; merge greedy_soup data=builtin:math-heldout,builtin:sql-heldout,builtin:japanese-heldout; eval"
        ),
    );
    assert!(ok, "{replies:?}");
    assert_eq!(replies[1]["notes"][0], "the soup contains math");
    assert_eq!(replies[2]["methods"].as_array().unwrap().len(), 24);
    assert_eq!(replies[3]["method"], "greedy_soup");
    assert!(
        fs::read_to_string(dir.path().join("out/README.md"))
            .unwrap()
            .contains("# A greedy_soup merge")
    );
    let (replies, ok) = json(dir.path(), &format!("{load}; merge greedy_soup density=1"));
    assert!(!ok && replies[1]["hint"].as_str().unwrap().contains("data"), "{replies:?}");
}

/// DAM starts at the column merge closest to another merge.
#[test]
fn dam_starts_from_a_merge() {
    let text = |notes: &[String]| notes.join("; ");
    let residual = |notes: &[String]| -> f64 {
        let note = notes.iter().find(|note| note.contains("relative residual")).unwrap();
        note.rsplit(' ').next().unwrap().trim_end_matches(')').parse().unwrap()
    };
    // A weighted average is a column merge; so is task arithmetic if the base is a source too.
    let models = three();
    let linear = models.merge_named("linear", &[("weight", "0.5,0.3,0.4")]).unwrap();
    let dam = models.wrap_from(Columns::default(), &linear).unwrap();
    assert!(residual(&dam.report().notes) < 1e-5, "{}", text(&dam.report().notes));
    for name in ["model.norm.weight", UP, "model.embed_tokens.weight"] {
        let c: Vec<Vec<f32>> = dam.coefficients(name).unwrap().to_vec2().unwrap();
        for (row, weight) in c.iter().zip([0.5, 0.3, 0.4]) {
            // A norm has one row, so many coefficients fit its columns.
            let fits = |c: &f32| (c - weight / 1.2).abs() < 1e-4 || name.contains("norm");
            assert!(row.iter().all(fits), "{name}: {row:?}");
        }
    }
    let with_base = Columns { with_base: true, ..Columns::default() };
    let arithmetic = models
        .merge_named("task_arithmetic", &[("weight", "0.6,0.3,0.2"), ("lambda", "0.8")])
        .unwrap();
    let dam = models.wrap_from(with_base, &arithmetic).unwrap();
    assert!(residual(&dam.report().notes) < 1e-5, "{}", text(&dam.report().notes));
    let c: Vec<Vec<f32>> = dam.coefficients(UP).unwrap().to_vec2().unwrap();
    for (row, weight) in c.iter().zip([1.0 - 1.1 * 0.8, 0.6 * 0.8, 0.3 * 0.8, 0.2 * 0.8]) {
        assert!(row.iter().all(|c| (c - weight).abs() < 1e-4), "{row:?} and {weight}");
    }
    // TIES is not a column merge; the start is closer to it than the average is.
    let ties = models.merge_named("ties", &[("density", "0.5")]).unwrap();
    let dam = models.wrap_from(Columns::default(), &ties).unwrap();
    let share = residual(&dam.report().notes);
    assert!(share > 0.01 && share < 1.0, "{share}");
    dam.inspect(UP).unwrap();

    let other = models.merge_recipe(data("golden/mergekit/passthrough_slices/recipe.yml")).unwrap();
    assert!(
        models
            .wrap_from(Columns::default(), &other)
            .unwrap_err()
            .to_string()
            .contains("different tensors")
    );
    let scaled = Columns { f: Nonlinearity::Tanh, ..Columns::default() };
    assert!(models.wrap_from(scaled, &ties).unwrap_err().to_string().contains("`tanh`"));

    let dir = tempfile::tempdir().unwrap();
    let verbs = "load base=builtin:base builtin:japanese builtin:math; wrap init=dare_ties; step; wrap init=tees";
    let (replies, ok) = json(dir.path(), verbs);
    assert!(!ok && replies.len() == 4, "{replies:?}");
    assert!(replies[3].to_string().contains("did you mean `ties`"), "{replies:?}");
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

/// A checkpoint of a family that cannot be run, with a convolution, a tied output layer and a
/// buffer.
fn other_family(directory: &Path, scale: f32, tied_stored: bool) {
    fs::create_dir_all(directory).unwrap();
    fs::write(
        directory.join("config.json"),
        r#"{"model_type": "mamba", "tie_word_embeddings": true}"#,
    )
    .unwrap();
    let random = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        Tensor::from_vec(
            (0..count).map(|i| scale * i as f32).collect::<Vec<_>>(),
            shape,
            &Device::Cpu,
        )
        .unwrap()
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
fn families_that_cannot_run_can_be_merged() {
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
fn failed_merges_leave_no_output() {
    let dir = tempfile::tempdir().unwrap();
    other_family(&dir.path().join("a"), 1.0, false);
    let load = format!("load {} {}", golden("model0").display(), golden("model1").display());
    for (verbs, word) in [
        (format!("{load}; merge linear weights=1,2,3 out"), "2 numbers"),
        (format!("{load}; merge linear weights=1,-1 out"), "non-zero sum"),
        (format!("{load}; merge linar out"), "linear"),
        (format!("{load}; merge linear dtype=int8 out"), "bf16"),
        (format!("{load}; merge linear density=1 out"), "weight, normalize, base"),
        (format!("{load}; merge linear dtype=f16"), "needs an output directory"),
        (format!("{load}; merge ties out"), "base=SOURCE"),
        (format!("{load}; merge passthrough out"), "merges 1 sources"),
        (format!("{load}; merge slerp t=x out"), "a number"),
        (format!("load {} a; merge linear out", golden("model0").display()), "cannot be merged"),
        ("merge linear out".to_owned(), "load"),
    ] {
        let (replies, ok) = json(dir.path(), &verbs);
        assert!(!ok && replies.last().unwrap().to_string().contains(word), "{verbs}: {replies:?}");
        assert!(!dir.path().join("out").exists());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
