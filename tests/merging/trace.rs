//! `trace`: its numbers against PyTorch's hooks (`tests/data/trace/make.py`), a planted fault that
//! it finds and one `mix` mends, and every family.

use std::collections::BTreeMap;

use crate::common::data;
use dam_prelude::show::Mark;
use dam_prelude::trace::{Part, Patch, Patched};
use dam_prelude::verbs::{Context, statements};
use dam_prelude::{BiasStart, Columns, Dam, SolveSettings, Tensor, Trace, load};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

const QUESTION: &str = "Subtract 55 from 94.";

fn average() -> Dam {
    load(["builtin:japanese", "builtin:math"]).unwrap().wrap(Columns::default()).unwrap()
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(data("trace/expected.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let apart = (found - expected).abs();
        assert!(apart < 1e-5 * expected.abs().max(1.0), "{what}: {found}, not {expected}");
    }
}

fn log_prob(patched: &Patched) -> f64 {
    patched.reading.log_prob.unwrap()
}

#[test]
fn numbers_are_those_of_hooks_in_pytorch() {
    let dam = average();
    let (like, answer) = (Some("math".to_owned()), Some("94 - 55 = 39".to_owned()));
    let asked = Trace { like, answer, ..QUESTION.into() };
    let report = dam.trace(asked.clone()).unwrap();
    let (traced, expected) = (&report.traced, expected());
    assert_eq!(report.token_id, expected["token"]);
    assert_eq!(report.before.len(), expected["ids"].as_array().unwrap().len());
    for (name, drift) in report.sources.iter().zip(&traced.drifts) {
        let rows = expected["distance"][name].as_array().unwrap().iter();
        for (row, (distance, cosine)) in rows
            .zip(&expected["cosine"][name].as_array().unwrap().clone())
            .zip(drift.distance.iter().zip(&drift.cosine))
        {
            close("distance", distance, &numbers(row.0));
            close("cosine", cosine, &numbers(row.1));
        }
    }
    let models = [("DAM", &traced.merge)];
    let sources = report.sources.iter().map(String::as_str).zip(&traced.sources);
    for (name, model) in models.into_iter().chain(sources) {
        let found: Vec<f64> = model.readings.iter().map(|r| r.log_prob.unwrap()).collect();
        close("log_prob", &found, &numbers(&expected["log_prob"][name]));
        let found: Vec<f64> = model.attribution.contributions.iter().map(|c| c.logit).collect();
        close("contributions", &found, &numbers(&expected["contributions"][name]));
        close("sum", &[model.attribution.loss()], &[model.answer().loss()]);
    }
    close("loss", &[report.loss()], &[expected["loss"].as_f64().unwrap()]);
    let normaliser = expected["normaliser"].as_f64().unwrap();
    close("normaliser", &[traced.merge.attribution.normaliser], &[normaliser]);

    let patched = &expected["patched"];
    let streams: Vec<f64> = traced.streams.iter().map(log_prob).collect();
    close("streams", &streams, &numbers(&patched["stream"]));
    assert_eq!(traced.parts.len(), patched["part"].as_object().unwrap().len());
    assert_eq!(traced.tensors.len(), patched["tensor"].as_object().unwrap().len());
    for one in traced.parts.iter().chain(&traced.tensors) {
        let expected = match &one.patch {
            Patch::Part(part) => &patched["part"][part.to_string()],
            Patch::Tensor(name) => &patched["tensor"][name],
            other => panic!("{other:?}"),
        };
        close(&format!("{:?}", one.patch), &[log_prob(one)], &[expected.as_f64().unwrap()]);
    }
    assert!(traced.tensors.is_sorted_by(|a, b| log_prob(a) >= log_prob(b)));
    assert!(traced.parts.iter().any(|one| one.patch == Patch::Part(Part::Mlp(2))));

    let (shares, columns) = traced.columns.as_ref().unwrap();
    assert_eq!(report.tensor(), expected["columns"]["tensor"].as_str());
    let mut by_column: Vec<f64> = vec![0.0; shares.len()];
    shares.iter().for_each(|(column, share)| by_column[*column] = *share);
    close("shares", &by_column, &numbers(&expected["columns"]["shares"]));
    assert!(shares.is_sorted_by(|a, b| a.1 >= b.1));
    close("columns", &[log_prob(columns)], &[expected["columns"]["log_prob"].as_f64().unwrap()]);

    // The same numbers as tensors.
    let tensors = report.tensors().unwrap();
    let places = traced.streams.len();
    assert_eq!(tensors["distance.math"].dims(), [places, report.before.len()]);
    assert_eq!(tensors["residual.DAM"].dims(), [places, 128]);
    let found: Vec<f32> = tensors["stream.log_prob"].to_vec1().unwrap();
    assert!(found.iter().zip(&streams).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));

    // A static merge of the same weights.
    let models = load(["builtin:japanese", "builtin:math"]).unwrap();
    let merged = models.merge_named("linear", &[]).unwrap().trace(asked).unwrap();
    close("static", &[merged.loss()], &[report.loss()]);
    assert_eq!((merged.model.as_str(), merged.tensor()), ("linear", report.tensor()));
    assert!(report.mends && !merged.mends);
}

#[test]
fn pictures_show_every_place_token_and_model() {
    let report = average().trace(Trace { like: Some("math".into()), ..QUESTION.into() }).unwrap();
    let Mark::Heatmap(map) = report.plot_distance("japanese").unwrap().mark else { panic!() };
    assert_eq!(map.rows, ["embedding", "layer 0", "layer 1", "layer 2", "layer 3"]);
    assert_eq!(map.columns[..2], ["<|user|>", "Subtract"]);
    assert_eq!((map.columns.len(), map.values.len()), (report.before.len(), 5));
    let Mark::Curves(curves) = report.plot_probability().mark else { panic!() };
    let names: Vec<&str> = curves.series.iter().map(|series| series.name.as_str()).collect();
    assert_eq!(names, ["DAM", "japanese", "math"]);
    assert_eq!(curves.series[2].points[4], (4.0, report.traced.sources[1].answer().probability()));
    let error = format!("{:?}", report.plot_distance("sql").unwrap_err());
    assert!(error.contains("unknown source `sql`"), "{error}");
}

/// Draws of a standard normal distribution (Box and Muller).
fn normal(random: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f32, f32) = (random.random_range(1e-6..1.0), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// Multiplies the coefficients of one tensor by noise of size `scale`, column by column.
fn spoil(dam: &Dam, tensor: &str, scale: f32, random: &mut ChaCha8Rng) {
    let c = dam.coefficients(tensor).unwrap();
    let values: Vec<f32> = c.flatten_all().unwrap().to_vec1().unwrap();
    let noisy = values.iter().map(|c| c * (1.0 + scale * normal(random))).collect();
    dam.set_coefficients(tensor, &Tensor::from_vec(noisy, c.dims(), c.device()).unwrap()).unwrap();
}

fn row(source: &str, number: usize) -> Trace {
    Trace { row: Some((source.into(), number)), ..Trace::default() }
}

/// One tensor of a healthy merge is spoilt so that the merge answers a question wrongly: the trace
/// names the tensor, and making it like the source brings the answer back.
#[test]
fn a_planted_fault_is_found_and_mended_with_one_mix() {
    let models = load(["builtin:japanese", "builtin:math"]).unwrap();
    let dam = models.wrap_solved(Columns::default(), &SolveSettings::default()).unwrap();
    let healthy = dam.snapshot().unwrap();
    let names: Vec<String> = dam.inspect("").unwrap().tensors.into_iter().map(|t| t.name).collect();
    // Questions that the healthy merge answers rightly, token by token.
    let rows: Vec<(&str, usize)> =
        ["japanese", "math"].into_iter().flat_map(|s| (1..=6).map(move |n| (s, n))).collect();
    let is_right = |(source, number): (&str, usize)| {
        let report = dam.trace(row(source, number)).unwrap();
        report.traced.merge.answer().likeliest == report.token_id
    };
    let rows: Vec<(&str, usize)> = rows.into_iter().filter(|one| is_right(*one)).collect();
    assert!(rows.len() > 5, "{rows:?}");
    for seed in 0..10 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let tensor = &names[random.random_range(0..names.len())];
        // The noise grows until an answer is wrong.
        let spoilt = (1..).find_map(|k| {
            dam.restore(&healthy).unwrap();
            spoil(&dam, tensor, 0.5 * k as f32, &mut random);
            let first = random.random_range(0..rows.len());
            let rows = rows.iter().cycle().skip(first).take(3);
            let mut reports = rows.map(|(s, n)| (*s, *n, dam.trace(row(s, *n)).unwrap()));
            reports.find(|(.., report)| report.loss() > 2.0)
        });
        let (source, number, report) = spoilt.unwrap();
        println!("seed {seed}: {tensor}, {source} {number}\n{report}\n");
        assert_eq!(report.tensor(), Some(tensor.as_str()), "seed {seed}, {source} {number}");
        assert!(report.mends);
        dam.mix_like(tensor, source).unwrap();
        let mended = dam.trace(row(source, number)).unwrap();
        assert!(mended.loss() < 0.5, "seed {seed}: {mended}");
    }
}

/// The same with verbs, from the line that the report suggests.
#[test]
fn the_suggested_line_mends() {
    let mut context = Context::default();
    let mut run = |text: &str| {
        let mut last = None;
        for statement in statements(text).unwrap() {
            last = Some(context.run(&statement).unwrap());
        }
        last.unwrap()
    };
    run(
        "load builtin:japanese builtin:math; wrap init=solve; mix layers.1.self_attn.o_proj japanese=-4 math=3",
    );
    let reply = run(&format!("trace \"{QUESTION}\" like=math"));
    assert_eq!(reply.json["tensor"], "model.layers.1.self_attn.o_proj.weight");
    assert_eq!(reply.html.as_ref().unwrap().matches("<img").count(), 2);
    let line = reply.text.lines().find_map(|line| line.split_once(": mix ")).unwrap().1;
    assert_eq!(line, "layers.1.self_attn.o_proj like=math");
    let before = reply.json["loss"].as_f64().unwrap();
    run(&format!("mix {line}"));
    let after = run(&format!("trace \"{QUESTION}\" like=math")).json["loss"].as_f64().unwrap();
    assert!(before > 1.0 && after < 0.2 * before, "{before} {after}");
    // Tracing is no state.
    let history = run("history").json;
    assert_eq!(history["states"].as_array().unwrap().len(), 4, "{history:?}");
}

/// Equal sources have no drift; a family with other norms, scales and caps adds up all the same.
#[test]
fn every_family_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    std::fs::write(&file, "{\"input_ids\": [3, 14, 15, 9, 26, 5, 35, 8, 9]}\n").unwrap();
    let file = file.display().to_string();
    let families = std::fs::read_dir(data("families")).unwrap().map(|e| e.unwrap().path());
    let mut families: Vec<_> = families.filter(|p| p.join("config.json").is_file()).collect();
    families.sort();
    assert!(families.len() >= 20);
    for family in families {
        let path = family.display();
        let mut models = load([format!("a={path}"), format!("b={path}")]).unwrap();
        models.data("a", &file).unwrap();
        let bias = BiasStart::Same;
        let dam = models.wrap(Columns { bias, ..Columns::default() }).unwrap();
        let report = dam.trace(row("a", 1)).unwrap();
        let traced = &report.traced;
        let attribution = &traced.merge.attribution;
        let apart = (attribution.loss() - report.loss()).abs();
        assert!(apart < 2e-5 * report.loss().max(1.0), "{path}: {apart}");
        let has_cap = attribution.of(Part::LogitCap).is_some();
        assert_eq!(
            has_cap,
            path.to_string().contains("gemma2") || path.to_string().contains("gemma3")
        );
        let drifts = traced.drifts.iter().flat_map(|d| d.distance.iter().flatten());
        assert!(drifts.fold(0.0, |m: f64, x| m.max(*x)) < 1e-3, "{path}");
        let patches = traced.streams.iter().chain(&traced.parts).chain(&traced.tensors);
        for patched in patches {
            assert!(traced.recovered(patched).abs() < 1e-3, "{path}: {patched:?}");
        }
        let texts: BTreeMap<_, _> = report.texts.clone();
        assert!(texts.values().all(|text| !text.is_empty()), "{path}");
    }
}

/// The layers of a stack are not those of its sources.
#[test]
fn a_stack_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recipe.yml");
    let layers = "layer_range: [0, 4]";
    let text = format!(
        "merge_method: passthrough\nslices:\n- sources: [{{model: japanese, {layers}}}]\n- sources: [{{model: math, {layers}}}]\n"
    );
    std::fs::write(&file, text).unwrap();
    let models = load(["builtin:japanese", "builtin:math"]).unwrap();
    let merged = models.merge_recipe(file).unwrap();
    let error = format!("{:?}", merged.trace(QUESTION).unwrap_err());
    assert!(error.contains("layers is `8` and `4`") && error.contains("stacking"), "{error}");
}
