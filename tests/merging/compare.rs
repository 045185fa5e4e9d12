//! Evolution, the comparison of methods, and multiple choice.

use std::fs;
use std::ops::ControlFlow;

use crate::common::{copy_checkpoint, golden, json};
use dam_prelude::candle_core::{Device, Tensor, safetensors};
use dam_prelude::{Compare, Error, Evolve, load};
use serde_json::json;

fn verbs(more: &str) -> String {
    format!("load base=builtin:base builtin:japanese builtin:math; {more}")
}

#[test]
fn evolution_finds_a_better_merge_and_its_recipe_reproduces_it() {
    let dir = tempfile::tempdir().unwrap();
    let (replies, ok) = json(
        dir.path(),
        &verbs(
            "evolve dare_ties budget=14 groups=2 examples=4 best.yml; eval; merge best.yml; eval",
        ),
    );
    assert!(ok, "{replies:?}");
    let [_, evolve, first, merge, second] = replies.as_slice() else { panic!("{replies:?}") };
    assert!(evolve["best"].as_f64() < evolve["first"].as_f64(), "{evolve}");
    assert_eq!((&evolve["candidates"], &evolve["dimensions"]), (&json!(14), &json!(8)));
    assert_eq!(merge["method"], "dare_ties");
    assert_eq!(first["scores"], second["scores"]);
    // The same seed gives the same result, another seed another.
    let (again, _) = json(dir.path(), &verbs("evolve dare_ties budget=14 groups=2 examples=4"));
    assert_eq!(again[1]["recipe"], evolve["recipe"]);
    let (other, _) =
        json(dir.path(), &verbs("set seed=1; evolve dare_ties budget=14 groups=2 examples=4"));
    assert_ne!(other[2]["recipe"], evolve["recipe"]);
}

#[test]
fn a_stopped_search_keeps_the_best() {
    let models = load(["builtin:japanese", "builtin:math"]).unwrap();
    let search = Evolve { examples: 2, groups: 1, ..Evolve::default() };
    let enough =
        |tried| if tried == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let mut losses = Vec::new();
    let evolved = models.evolve(&search, |tried| {
        losses.push(tried.loss);
        enough(tried.number)
    });
    let report = evolved.unwrap().report;
    assert!(report.stopped && report.tried == 5 && report.method == "linear", "{report:?}");
    assert_eq!(report.best, losses.iter().copied().fold(f64::INFINITY, f64::min));
}

#[test]
fn unsuitable_searches_and_comparisons_are_errors() {
    let models = load(["builtin:japanese", "builtin:math", "builtin:sql"]).unwrap();
    let go_on = |_: &dam_prelude::EvolveProgress| ControlFlow::Continue(());
    for search in [
        Evolve { method: "karcher".into(), ..Evolve::default() },
        Evolve { budget: 0, ..Evolve::default() },
    ] {
        assert!(matches!(models.evolve(&search, go_on), Err(Error::BadValue { .. })));
    }
    assert!(matches!(
        models.evolve(&Evolve { method: "tis".into(), ..Evolve::default() }, go_on),
        Err(Error::Unknown { .. })
    ));
    let none = load(["model0", "model1"].map(|name| golden(name).display().to_string())).unwrap();
    assert!(matches!(none.evolve(&Evolve::default(), go_on), Err(Error::NoData { .. })));
    // A method that cannot merge these sources has a row with the reason; the others are
    // unaffected.
    let methods = ["slerp", "ties", "linear"].map(str::to_owned).to_vec();
    let contest = Compare { methods, examples: 1, ..Compare::default() };
    let table = models.compare(&contest, |_| ControlFlow::Continue(())).unwrap();
    assert!(table.row("slerp").unwrap().refused.as_ref().unwrap().contains("2 sources"));
    assert!(table.row("ties").unwrap().refused.as_ref().unwrap().contains("base"));
    assert!(table.row("linear").unwrap().scores.is_some());
    let unknown = Compare { methods: vec!["dma".into()], ..Compare::default() };
    let error = models.compare(&unknown, |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.hint().unwrap(), "did you mean `dam`?");
}

#[test]
fn the_table_has_every_method_with_its_cost_and_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let line = verbs(
        "set lr=1e-2 batch_size=2; compare dam linear ties evolve steps=3 budget=3 examples=2 table.md",
    );
    let (replies, ok) = json(dir.path(), &line);
    assert!(ok, "{replies:?}");
    let rows = replies[2]["rows"].as_array().unwrap();
    assert_eq!(
        rows.iter().map(|r| r["method"].as_str().unwrap()).collect::<Vec<_>>(),
        ["dam", "linear", "ties", "evolve"]
    );
    for row in rows {
        assert_eq!(
            row["scores"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["japanese", "japanese-math", "math"]
        );
        let tried = row["method"] != "linear";
        assert_eq!(row["tokens"].as_u64().unwrap() > 0, tried, "{row}");
        assert!(
            row["seconds"].is_f64()
                && row["peak_bytes"].as_u64() > Some(1 << 20)
                && row["mean"].is_f64(),
            "{row}"
        );
    }
    assert!(rows[2]["chosen"].as_str().unwrap().starts_with("density="), "{rows:?}");
    let table = fs::read_to_string(dir.path().join("table.md")).unwrap();
    assert!(
        table.contains("| method | japanese |") && table.contains("**") && table.contains("seed 0"),
        "{table}"
    );
    // An existing file is not overwritten.
    let (replies, ok) = json(dir.path(), &verbs("compare linear table.md"));
    assert!(!ok && replies[1]["error"].as_str().unwrap().contains("already exists"), "{replies:?}");
}

/// The most likely option has the lowest loss when scored as an example.
#[test]
fn multiple_choice_selects_the_likeliest_option() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let to = dir.path().join(name);
        copy_checkpoint(if name == "a" { "model0" } else { "model1" }, &to);
        let words: serde_json::Map<String, serde_json::Value> =
            (0..90).map(|i| (format!("w{i}"), i.into())).collect();
        let tokenizer = json!({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}});
        fs::write(to.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }
    let options = ["w1 w2", "w7", "w30 w31 w32"];
    let mut loss = Vec::new();
    for (i, option) in options.iter().enumerate() {
        fs::write(
            dir.path().join(format!("{i}.jsonl")),
            json!({"question": "w3 w4", "answer": option}).to_string(),
        )
        .unwrap();
        let (replies, ok) = json(dir.path(), &format!("load a b; wrap; eval {i}.jsonl"));
        assert!(ok, "{replies:?}");
        let score = &replies[2]["scores"][i.to_string()];
        loss.push(score["loss"].as_f64().unwrap() * score["tokens"].as_f64().unwrap());
    }
    let best = (0..3).min_by(|a, b| loss[*a].total_cmp(&loss[*b])).unwrap();
    let row = |right: usize| {
        json!({"question": "w3 w4", "choices": options, "answer": right}).to_string()
    };
    let rows = [best, (best + 1) % 3, best, best].map(row).join("\n");
    fs::write(dir.path().join("choices.jsonl"), rows).unwrap();
    let (replies, ok) = json(dir.path(), "load a b; wrap; eval choices.jsonl");
    assert!(ok, "{replies:?}");
    assert_eq!(replies[2]["scores"]["choices"]["multiple_choice"], 0.75);
    fs::write(
        dir.path().join("bad.jsonl"),
        json!({"question": "w3", "choices": ["w1"], "answer": 0}).to_string(),
    )
    .unwrap();
    let (replies, ok) = json(dir.path(), "load a b; wrap; eval bad.jsonl");
    assert!(!ok && replies[2]["error"].as_str().unwrap().contains("two texts"), "{replies:?}");
}

/// Candidates with densities for methods with and without epsilon.
#[test]
fn evolution_searches_densities_of_all_methods() {
    for method in ["ties", "breadcrumbs", "della", "dare_ties"] {
        let line = format!(
            "load base=builtin:base builtin:japanese builtin:math; evolve {method} budget=10 examples=2 groups=2"
        );
        let (replies, ok) = json(std::path::Path::new("."), &line);
        assert!(ok, "{replies:?}");
        let (first, all) = (&replies[1]["tokens"], replies[1]["candidates"].as_u64().unwrap());
        let (alone, _) = json(std::path::Path::new("."), &line.replace("budget=10", "budget=1"));
        let each = alone[1]["tokens"].as_u64().unwrap();
        // Almost all candidates are feasible and run.
        assert!(
            first.as_u64().unwrap() >= each * (all - 3),
            "{method}: {first} of {all} candidates of {each} tokens"
        );
    }
    // An error of the method names the method, because the user wrote no recipe.
    let line =
        "load base=builtin:base builtin:japanese builtin:math builtin:sql; evolve nuslerp budget=2";
    let (replies, ok) = json(std::path::Path::new("."), line);
    assert!(!ok && replies[1]["error"].as_str().unwrap().contains("`nuslerp`"), "{replies:?}");
    assert!(!replies[1]["error"].to_string().contains("recipe"), "{replies:?}");
}

/// The first candidate of the grid is not finite: base weights of 1e38 remain with `lambda=0.3`,
/// and cancel with 0.5.
#[test]
fn non_finite_candidates_are_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (name, value) in [("base", 1e38f32), ("a", 0.0), ("b", 0.0)] {
        copy_checkpoint("base", &at(name));
        let file = at(name).join("model.safetensors");
        let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
        for part in ["gate_proj", "up_proj"] {
            let tensor = tensors.get_mut(&format!("model.layers.0.mlp.{part}.weight")).unwrap();
            *tensor = Tensor::full(value, tensor.shape(), &Device::Cpu).unwrap();
        }
        safetensors::save(&tensors, &file).unwrap();
    }
    let spec = |name: &str| format!("{name}={}", at(name).display());
    let mut models = load(["base", "a", "b"].map(spec)).unwrap();
    for name in ["a", "b"] {
        models.data(name, &golden("data0.jsonl").display().to_string()).unwrap();
    }
    let first = models
        .merge_named("task_arithmetic", &[("lambda", "0.3")])
        .unwrap()
        .training_loss(2)
        .unwrap();
    assert!(!first.is_finite(), "{first}");
    let contest =
        Compare { methods: vec!["task_arithmetic".into()], examples: 2, ..Compare::default() };
    let table = models.compare(&contest, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(table.rows[0].chosen, "lambda=0.5", "{table}");
    assert!(table.rows[0].scores.as_ref().unwrap().mean_loss().is_finite());
}

/// With several seeds, a method that draws at random gives other scores, and one that does not the
/// same.
#[test]
fn methods_run_with_several_seeds() {
    let models = load(["base=builtin:base", "builtin:japanese", "builtin:math"]).unwrap();
    let contest = Compare {
        methods: vec!["linear".into(), "dare_ties".into()],
        examples: 2,
        seeds: 3,
        ..Compare::default()
    };
    let table = models.compare(&contest, |_| ControlFlow::Continue(())).unwrap();
    let linear = table.row("linear").unwrap();
    assert_eq!(linear.seeds, [linear.mean().unwrap(); 3]);
    assert!(linear.over_seeds().unwrap().1 < 1e-12);
    let dare = table.row("dare_ties").unwrap();
    assert_eq!(dare.seeds[0], dare.mean().unwrap());
    assert!(dare.over_seeds().unwrap().1 > 0.0, "{:?}", dare.seeds);
    assert!(table.to_string().contains("of 3 seeds"), "{table}");
    let alone = Compare { seeds: 1, ..contest };
    let table = models.compare(&alone, |_| ControlFlow::Continue(())).unwrap();
    assert!(table.row("dare_ties").unwrap().over_seeds().is_none());
    assert!(!table.to_string().contains("seeds"), "{table}");
}
