//! Coefficients by least squares: the verb, its options, stops and undo. (The solutions are
//! compared with others in `prelude/src/solve/tests/`.)

use crate::common::{data, json};
use dam_prelude::candle_core::DType;
use dam_prelude::verbs::{Context, statements};
use dam_prelude::{Bake, Columns, Dam, SolveSettings, load};
use serde_json::{Value, json};

const LOAD: &str = "load base=builtin:base builtin:japanese builtin:math";

fn run(context: &mut Context, text: &str) -> Vec<Value> {
    let run = |statement| Value::Object(context.run(&statement).unwrap().json);
    statements(text).unwrap().into_iter().map(run).collect()
}

fn refused(text: &str) -> String {
    let mut context = Context::default();
    run(&mut context, LOAD);
    let mut last = String::new();
    for statement in statements(text).unwrap() {
        match context.run(&statement) {
            Ok(_) => last.clear(),
            Err(error) => last = format!("{error:?}"),
        }
    }
    last
}

#[test]
fn a_solution_is_a_state_that_can_be_undone() {
    let mut context = Context::default();
    let replies = run(
        &mut context,
        &format!(
            "{LOAD}; wrap; eval; solve examples=8 other=builtin:sql-heldout; eval; history; undo; eval"
        ),
    );
    let [_, _, before, solve, after, _, _, again] = &replies[..] else { panic!("{replies:?}") };
    let loss = |scores: &Value| scores["scores"]["math"]["loss"].as_f64().unwrap();
    assert!(loss(after) < 0.5 * loss(before), "{before} {after}");
    assert_eq!(loss(again), loss(before));
    let share = |of: &Value| of["share"].as_f64().unwrap();
    assert!(share(solve) < 1.0 && solve["unrestricted"].as_f64().unwrap() < share(solve));
    assert_eq!((&solve["examples"], &solve["stopped"]), (&json!(16), &json!(false)));
    let parts = solve["parts"].as_array().unwrap();
    let names: Vec<&str> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["embedding", "layer 0", "layer 1", "layer 2", "layer 3", "output"]);
    assert!(parts.iter().all(|part| share(part) < 1.0), "{solve}");
    let other = &solve["other"][0];
    assert_eq!(other["name"], "builtin:sql-heldout");
    assert!(other["before"].as_f64().unwrap() > 0.0 && other["after"].as_f64().unwrap() > 0.0);
    run(&mut context, "redo");
    assert_eq!(loss(&run(&mut context, "eval")[0]), loss(after));
}

#[test]
fn the_first_layers_can_be_solved_alone() {
    let mut context = Context::default();
    let replies = run(&mut context, &format!("{LOAD}; wrap; solve examples=2 layers=2"));
    let parts = replies[2]["parts"].as_array().unwrap();
    let last = parts.last().unwrap();
    assert_eq!((&last["name"], &replies[2]["layers"]), (&json!("layer 1"), &json!(2)));
    assert_eq!(replies[2]["stopped"], false);
    let change = |context: &mut Context, tensor: &str| {
        let stats = run(context, &format!("inspect layers.{tensor}.mlp.down_proj"));
        stats[0]["tensors"][0]["sources"]["math"]["std"].as_f64().unwrap()
    };
    assert!(change(&mut context, "1") > 1e-3);
    assert_eq!(change(&mut context, "2"), 0.0);
}

#[test]
fn a_start_is_solved_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let (replies, ok) = json(
        dir.path(),
        &format!(
            "{LOAD}; wrap rows init=solve examples=4 ridge=0.2; bake out; save kept; wrap; open kept; bake again"
        ),
    );
    assert!(ok, "{replies:?}");
    let note = "solved on 4 examples per source (ridge 0.2)";
    assert!(replies[1]["notes"].to_string().contains(note), "{}", replies[1]);
    for card in ["out", "again"] {
        let text = std::fs::read_to_string(dir.path().join(card).join("README.md")).unwrap();
        assert!(text.contains(note), "{text}");
    }
}

#[test]
fn methods_without_a_scheme_are_merges_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let (replies, ok) = json(
        dir.path(),
        &format!(
            "{LOAD}; merge linear; eval; merge regmean examples=8; eval; merge regmean_plus_plus examples=8; eval; \
             merge wudi; eval; merge regmean examples=8 out; compare solve regmean wudi"
        ),
    );
    assert!(ok, "{replies:?}");
    let loss = |reply: &Value| {
        ["math", "japanese"]
            .map(|name| reply["scores"][name]["loss"].as_f64().unwrap())
            .iter()
            .sum::<f64>()
    };
    let average = loss(&replies[2]);
    for (i, name) in [(3, "regmean"), (5, "regmean_plus_plus"), (7, "wudi")] {
        assert_eq!(replies[i]["method"], name);
        assert!(loss(&replies[i + 1]) < average, "{name}: {}", replies[i + 1]);
    }
    let (_, ok) = json(dir.path(), "load out; merge passthrough; eval builtin:math-heldout");
    assert!(ok);
    let rows = replies[10]["rows"].as_array().unwrap();
    assert_eq!(
        rows.iter().map(|row| row["method"].as_str().unwrap()).collect::<Vec<_>>(),
        ["solve", "regmean", "wudi"]
    );
    assert!(rows.iter().all(|row| row["refused"].is_null()), "{rows:?}");
    let tokens = |i: usize| rows[i]["tokens"].as_u64().unwrap();
    // The merge and its sources run, the sources alone, or neither.
    assert_eq!((tokens(0), tokens(2)), (2 * tokens(1), 0));
}

#[test]
fn a_resumed_session_has_its_solution() {
    let place = tempfile::tempdir().unwrap();
    let mut context = Context::default();
    run(
        &mut context,
        &format!("{LOAD}; wrap; solve examples=2 layers=1; merge regmean examples=2"),
    );
    context.keep(place.path()).unwrap();
    let found = context.merged.as_ref().unwrap().inspect("").unwrap();
    let again = Context::recover(place.path()).unwrap();
    assert!(again.notes.is_empty(), "{:?}", again.notes);
    assert_eq!(again.context.merged.as_ref().unwrap().inspect("").unwrap(), found);
    let notes = again.context.dam().unwrap().report().notes;
    assert!(notes[0].starts_with("the first layer solved on 2 examples"), "{notes:?}");
}

#[test]
fn unsuitable_options_are_errors_that_name_them() {
    for (line, words) in [
        ("solve", "wrap"),
        ("wrap; solve examples=0", "at least 1"),
        ("wrap; solve ridge=-1", "at least 0"),
        ("wrap; solve layers=5", "from 1 to 4"),
        ("wrap; solve target=base", "own or merged"),
        ("wrap; solve data=none examples=3", "`examples` does not apply to data=none"),
        ("wrap; solve other=missing.jsonl", "missing.jsonl"),
        ("wrap ridge=0.1", "`ridge` needs init=solve"),
        ("merge regmean density=1", "density"),
        ("merge wudi examples=3", "examples"),
    ] {
        let error = refused(line);
        assert!(error.contains(words), "{line}: {error}");
    }
}

/// Adapters of one base differ by a low rank: solved as they are decoded, and as whole checkpoints.
#[test]
fn adapters_are_solved_like_the_checkpoints_that_they_make() {
    let place = tempfile::tempdir().unwrap();
    let base = data("golden/base").display().to_string();
    let adapted =
        ["plain", "patterns"].map(|name| format!("{base}+{}", data("lora").join(name).display()));
    let whole = [0, 1].map(|i| {
        let merged = load([adapted[i].clone()]).unwrap().merge_named("passthrough", &[]).unwrap();
        let options = Bake { dtype: Some("f32".into()), ..Bake::default() };
        let out = place.path().join(i.to_string());
        merged.bake_with(out, &options).unwrap().path.display().to_string()
    });
    let solved = |specs: [String; 2]| {
        let [a, b] = specs;
        let mut models = load([format!("a={a}"), format!("b={b}")]).unwrap();
        for (i, name) in ["a", "b"].into_iter().enumerate() {
            models
                .data(name, &data(&format!("golden/data{i}.jsonl")).display().to_string())
                .unwrap();
        }
        models.wrap_solved(Columns::default(), &SolveSettings::default()).unwrap()
    };
    let (found, expected) = (solved(adapted), solved(whole));
    let rows = |dam: &Dam| dam.inspect("").unwrap();
    assert!(rows(&found).tensors.len() > 10);
    for tensor in rows(&found).tensors {
        let c = |dam: &Dam| dam.coefficients(&tensor.name).unwrap();
        let apart = (c(&found) - c(&expected)).unwrap().abs().unwrap().max_all().unwrap();
        let apart = apart.to_dtype(DType::F32).unwrap().to_scalar::<f32>().unwrap();
        assert!(apart < 1e-3, "{}: {apart}", tensor.name);
    }
}
