//! Undo, redo, branches and their differences, and recovery of a killed session.

use crate::common::{golden, json};
use dam_prelude::verbs::{Context, statements};
use dam_prelude::{
    Columns, Dam, Kind, LowRank, Nonlinearity, Options, PerTensor, Scheme, Softmax, load,
};
use serde_json::Value;

/// Runs lines of verbs, which must all succeed, and returns the fields of their replies.
fn verbs(context: &mut Context, lines: &str) -> Vec<Value> {
    let all = statements(lines).unwrap();
    all.iter().map(|statement| Value::Object(context.run(statement).unwrap().json)).collect()
}

fn refused(context: &mut Context, line: &str) -> String {
    let statement = &statements(line).unwrap()[0];
    context.run(statement).err().unwrap_or_else(|| panic!("{line} went well")).to_string()
}

/// All coefficients.
fn coefficients(dam: &Dam) -> Vec<Vec<f32>> {
    dam.parameters()
        .unwrap()
        .values()
        .map(|values| values.flatten_all().unwrap().to_vec1().unwrap())
        .collect()
}

const BEGIN: &str = "load builtin:japanese builtin:math; wrap; set lr=1e-2";

/// Undo and redo restore the state exactly: coefficients, optimiser, order of examples.
#[test]
fn undo_and_redo_are_exact() {
    let (mut straight, mut around) = (Context::default(), Context::default());
    verbs(&mut straight, &format!("{BEGIN}; train 2; step; train 3"));
    verbs(&mut around, &format!("{BEGIN}; train 2"));
    let two = coefficients(around.dam().unwrap());
    verbs(&mut around, "step; set lr=1e-1; train 4; undo 3");
    assert_eq!(coefficients(around.dam().unwrap()), two);
    assert_eq!((around.dam().unwrap().steps(), around.dam().unwrap().settings().lr), (2, 1e-2));
    verbs(&mut around, "redo; undo; redo; train 3");
    assert_eq!(coefficients(around.dam().unwrap()), coefficients(straight.dam().unwrap()));
    assert_eq!(around.dam().unwrap().history(), straight.dam().unwrap().history());
}

#[test]
fn every_change_can_be_undone() {
    let mut context = Context::default();
    verbs(
        &mut context,
        "load builtin:japanese builtin:math; data math=builtin:sql; set seed=3; merge linear",
    );
    assert!(context.merged.is_some());
    verbs(&mut context, "wrap rows; wrap; load builtin:sql");
    assert!(context.dam.is_none() && context.models.names().count() == 3);
    verbs(&mut context, "undo");
    assert!(context.dam().unwrap().report().scheme.contains("columns"));
    verbs(&mut context, "undo");
    assert!(context.dam().unwrap().report().scheme.contains("rows"));
    verbs(&mut context, "undo");
    assert!(context.dam.is_none() && context.merged.is_some());
    verbs(&mut context, "undo");
    assert!(context.merged.is_none() && context.models.settings.seed == 3);
    verbs(&mut context, "undo 2");
    assert_eq!(context.models.settings.seed, 0);
    verbs(&mut context, "undo");
    assert_eq!(context.models.names().count(), 0);
    assert!(refused(&mut context, "undo").contains("nothing to undo"));
    verbs(&mut context, "redo 100");
    assert!(context.models.names().count() == 3 && context.dam.is_none());
    assert!(refused(&mut context, "redo").contains("nothing to redo"));
}

#[test]
fn branches_keep_their_states() {
    let mut context = Context::default();
    verbs(&mut context, &format!("{BEGIN}; train 2; eval"));
    let main = coefficients(context.dam().unwrap());
    let replies = verbs(
        &mut context,
        "branch bold; set lr=1e-1; train 2; diff main; switch main; diff bold; branch; history",
    );
    assert_eq!(coefficients(context.dam().unwrap()), main);
    // In both directions, the distances are the same and agree with the coefficients.
    let apart = |reply: &Value| -> f64 {
        reply["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["most"].as_f64().unwrap())
            .fold(0.0, f64::max)
    };
    assert!((apart(&replies[3]) - apart(&replies[5])).abs() < 1e-12 && apart(&replies[3]) > 0.0);
    verbs(&mut context, "switch bold");
    let bold = coefficients(context.dam().unwrap());
    let most = main
        .iter()
        .flatten()
        .zip(bold.iter().flatten())
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, f64::max);
    assert!((apart(&replies[3]) - most).abs() < 1e-6, "{} {most}", apart(&replies[3]));
    assert_eq!(replies[3]["scores"]["there"], replies[5]["scores"]["here"]);
    assert_eq!(replies[6]["branches"], serde_json::json!({"main": 4, "bold": 6}));
    let states = replies[7]["states"].as_array().unwrap();
    assert_eq!(states.len(), 6);
    assert_eq!((&states[3]["done"], &states[3]["step"]), (&"train 2".into(), &2.into()));
    for (line, said) in [
        ("branch main", "there is a branch `main`"),
        ("branch 7", "invalid value"),
        ("branch a/b", "invalid value"),
        ("switch nowhere", "unknown branch"),
        ("switch 99", "no state 99"),
        ("diff 1", "state 1 has no wrapped merge"),
    ] {
        assert!(
            refused(&mut context, line).contains(said),
            "{line}: {}",
            refused(&mut context, line)
        );
    }
    assert_eq!(context.timeline().branch(), "bold");
}

/// Switching to a state by its number stays on the branch; later states are kept.
#[test]
fn states_are_reached_by_number() {
    let mut context = Context::default();
    let replies =
        verbs(&mut context, &format!("{BEGIN}; train 1; train 1; switch 4; train 3; history"));
    let states = replies.last().unwrap()["states"].as_array().unwrap();
    assert_eq!(states.last().unwrap()["parent"], 4);
    assert_eq!(context.dam().unwrap().steps(), 4);
    verbs(&mut context, "switch 5");
    assert_eq!(context.dam().unwrap().steps(), 2);
}

/// Switching to an earlier state by its number counts as undo, so redo works, also on a new branch.
#[test]
fn redo_works_after_going_to_a_number() {
    let mut context = Context::default();
    verbs(&mut context, &format!("{BEGIN}; train 1; train 1; switch 3; redo"));
    assert_eq!(context.dam().unwrap().steps(), 1);
    verbs(&mut context, "redo; undo 2; branch other; redo 2");
    assert_eq!((context.dam().unwrap().steps(), context.timeline().branch()), (2, "other"));
    // From a state that is not an ancestor, there is nothing to redo.
    verbs(&mut context, "switch 4; train 3; switch 5");
    assert!(refused(&mut context, "redo").contains("nothing to redo"));
    // An unknown state changes nothing.
    verbs(&mut context, "switch main");
    assert!(
        refused(&mut context, "switch 99").contains("no state 99")
            && context.timeline().branch() == "main"
    );
}

/// Unsaved training: at the end of any branch, and before another `wrap`.
#[test]
fn unsaved_branches_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let mut context = Context::default();
    verbs(&mut context, BEGIN);
    assert_eq!(context.timeline().unsaved(), []);
    verbs(&mut context, "train 3; branch bold; undo");
    assert_eq!(context.timeline().unsaved(), [("main", 3)]);
    verbs(&mut context, "train 2");
    assert_eq!(context.timeline().unsaved(), [("bold", 2), ("main", 3)]);
    verbs(&mut context, &format!("save {}; set seed=1; train 1; switch main", file("bold")));
    assert_eq!(context.timeline().unsaved(), [("main", 3), ("bold", 1)]);
    verbs(&mut context, &format!("wrap rows; train 4; bake {}", file("baked")));
    assert_eq!(context.timeline().unsaved(), [("main", 3), ("bold", 1)]);
    // Opening another merge saves nothing of this one.
    verbs(&mut context, "train 1; branch third; wrap; train 2; switch main");
    assert_eq!(context.timeline().unsaved(), [("main", 4), ("bold", 1), ("third", 2)]);
    verbs(&mut context, &format!("open {}", file("bold")));
    assert_eq!(context.timeline().unsaved(), [("main", 4), ("bold", 1), ("third", 2)]);
    let kept = tempfile::tempdir().unwrap();
    context.keep(kept.path()).unwrap();
    assert_eq!(
        Context::recover(kept.path()).unwrap().context.timeline().unsaved(),
        context.timeline().unsaved()
    );
}

/// `save` replaces its own files, and others only on request.
#[test]
fn files_of_other_sessions_are_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let [one, other] =
        ["one", "other"].map(|name| directory.path().join(name).display().to_string());
    let mut context = Context::default();
    verbs(&mut context, &format!("{BEGIN}; save {other}; save {one}; step; save {one}"));
    assert!(refused(&mut context, &format!("save {other}")).contains("already exists"));
    verbs(&mut context, &format!("open {other}; step; save {other}; save --force {one}"));
    // Another program has written it meanwhile.
    std::fs::copy(&other, &one).unwrap();
    let refusal = refused(&mut context, &format!("save {one}"));
    assert!(refusal.contains("since this session saved it"), "{refusal}");
    std::fs::remove_file(&one).unwrap();
    verbs(&mut context, &format!("save {one}"));
}

/// Merges with different schemes cannot be compared by coefficients, but by scores.
#[test]
fn other_schemes_are_compared_by_their_scores() {
    let mut context = Context::default();
    let replies = verbs(&mut context, &format!("{BEGIN}; branch other; wrap tensor; diff main"));
    let difference = replies.last().unwrap();
    assert_eq!(
        (&difference["tensors"], &difference["incomparable"]),
        (&serde_json::json!([]), &38.into())
    );
    assert!(difference["scores"]["there"].is_object(), "{difference}");
}

/// A fork is independent of its origin.
#[test]
fn a_fork_is_independent() {
    let dam = load(["builtin:japanese", "builtin:math"]).unwrap().wrap(Columns::default()).unwrap();
    dam.step().unwrap();
    let fork = dam.fork().unwrap();
    let before = coefficients(&fork);
    let second = dam.step().unwrap().total;
    assert_eq!(coefficients(&fork), before);
    assert_eq!(fork.step().unwrap().total, second);
    let other =
        load(["builtin:japanese", "builtin:sql"]).unwrap().wrap(Columns::default()).unwrap();
    assert!(
        other.restore(&dam.snapshot().unwrap()).unwrap_err().to_string().contains("another merge")
    );
}

/// A killed session is recovered completely: all states, and the step that training had reached.
#[test]
fn a_killed_session_resumes() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path();
    let mut context = Context::default();
    for line in [
        "load builtin:japanese builtin:math",
        "merge linear",
        "wrap",
        "set lr=1e-2",
        "train 2",
        "branch b",
        "train 1",
    ] {
        verbs(&mut context, line);
        context.keep(directory).unwrap();
    }
    verbs(&mut context, "switch main");
    context.keep(directory).unwrap();
    let dam = context.dam().unwrap().clone();
    dam.step().unwrap();
    Context::keep_now(&dam, directory).unwrap()().unwrap();
    let (three, loss) = (coefficients(&dam), dam.step().unwrap().total);
    assert!(Context::summary(directory).unwrap().contains("training was running"));
    drop(context);

    let mut context = Context::recover(directory).unwrap().context;
    assert_eq!(coefficients(context.dam().unwrap()), three);
    assert_eq!(context.dam().unwrap().steps(), 3);
    assert_eq!(context.timeline().branch(), "main");
    let states = context.timeline().states().len();
    assert_eq!(states, 8, "load, merge, wrap, set, train, train on b, and what was under way");
    verbs(&mut context, "switch b; undo; undo; undo");
    assert!(context.dam().unwrap().steps() == 0);
    verbs(&mut context, "undo");
    assert!(context.dam.is_none() && context.merged.is_some());
    verbs(&mut context, "switch main");
    assert_eq!(context.dam().unwrap().step().unwrap().total, loss);
    context.keep(directory).unwrap();
    assert!(!directory.join("now.dam").exists());

    // A damaged journal is an error, not a panic.
    let journal = directory.join("journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    for damaged in [
        text.replace("\"parent\":1", "\"parent\":77"),
        text.replace("\"here\":", "\"here\":9"),
        text.replace("\"version\":2", "\"version\":3"),
        text.replacen("{\"state\":", "{\"stat\":", 1),
        text[..60].to_owned(),
        String::new(),
    ] {
        std::fs::write(&journal, damaged).unwrap();
        assert!(Context::recover(directory).is_err());
        // A saved session is independent of the journal.
        assert_eq!(Context::saved_in(directory).last().map(|(_, step)| *step), Some(4));
    }
    // Wherever the journal is truncated, the complete part is recovered.
    let heads: Vec<usize> = text
        .match_indices("{\"head\"")
        .map(|(at, _)| at + text[at..].find('\n').unwrap() + 1)
        .collect();
    for cut in (heads[0]..text.len()).step_by(97) {
        std::fs::write(&journal, &text[..cut]).unwrap();
        let mut context = Context::recover(directory).unwrap().context;
        verbs(&mut context, "set seed=3");
        context.keep(directory).unwrap();
        let again = Context::recover(directory).unwrap().context;
        assert_eq!(again.timeline().states().len(), context.timeline().states().len(), "{cut}");
        assert_eq!(again.timeline().here(), context.timeline().here());
    }
    std::fs::write(&journal, text).unwrap();
    std::fs::remove_file(directory.join("5.dam")).unwrap();
    let mut context = Context::recover(directory).unwrap().context;
    assert!(refused(&mut context, "switch 5").contains("5.dam"));
    verbs(&mut context, "switch 4");
}

/// A search is not repeated: its recipe is stored. States that cannot be restored are listed, and
/// the nearest one is current.
#[test]
fn a_killed_session_resumes_after_a_search_and_without_its_data() {
    let (place, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directory = place.path();
    let data = files.path().join("data.jsonl");
    std::fs::write(&data, "{\"question\": \"1 + 2 = ?\", \"answer\": \"1 + 2 = 3\"}\n").unwrap();
    let mut context = Context::default();
    let weights = |context: &Context| context.merged.as_ref().unwrap().inspect("").unwrap();
    verbs(
        &mut context,
        "load builtin:japanese builtin:math; evolve linear budget=3 examples=1 groups=1; inspect norm; eval",
    );
    context.keep(directory).unwrap();
    let found = weights(&context);
    let mut again = Context::recover(directory).unwrap();
    assert!(
        again.notes.is_empty() && again.context.timeline().states()[2].looked.len() == 2,
        "{:?}",
        again.notes
    );
    assert_eq!(weights(&again.context), found);
    verbs(&mut again.context, "generate \"1 + 1 = ?\"");

    verbs(&mut context, &format!("wrap; train 1; data math={}; train 2", data.display()));
    context.keep(directory).unwrap();
    let dam = context.dam().unwrap().clone();
    let three = coefficients(&dam);
    dam.step().unwrap();
    Context::keep_now(&dam, directory).unwrap()().unwrap();
    let moved = files.path().join("moved");
    std::fs::rename(&data, &moved).unwrap();
    let mut near = Context::recover(directory).unwrap();
    assert!(
        near.notes[0].contains("data.jsonl") && near.notes[0].contains("switch main"),
        "{:?}",
        near.notes
    );
    assert!(near.notes[1].contains("at step 4"), "{:?}", near.notes);
    assert_eq!(near.unused, Some(directory.join("now.dam")));
    assert_eq!(
        (near.context.timeline().branch(), near.context.dam().unwrap().steps()),
        ("recovered", 1)
    );
    // Unsaved work is still known.
    assert_eq!(near.context.timeline().unsaved(), [("recovered", 1), ("main", 3)]);
    verbs(&mut near.context, "step");
    std::fs::rename(moved, data).unwrap();
    verbs(&mut near.context, "switch main");
    assert_eq!(coefficients(near.context.dam().unwrap()), three);
}

/// Read-only verbs append to the journal without rewriting it.
#[test]
fn read_only_verbs_append_one_line() {
    let place = tempfile::tempdir().unwrap();
    let mut context = Context::default();
    verbs(&mut context, "load builtin:japanese builtin:math; wrap");
    let length = || std::fs::metadata(place.path().join("journal.jsonl")).unwrap().len();
    let added = |context: &mut Context, line: &str| {
        context.keep(place.path()).unwrap();
        let before = length();
        verbs(context, line);
        context.keep(place.path()).unwrap();
        length() - before
    };
    let first = added(&mut context, "inspect norm");
    (0..100).for_each(|_| drop(verbs(&mut context, "inspect norm")));
    assert_eq!(added(&mut context, "inspect norm"), first);
    let again = Context::recover(place.path()).unwrap().context;
    assert_eq!(again.timeline().states()[2].looked.len(), 102);
}

/// Scripts can undo too.
#[test]
fn scripts_can_undo() {
    let line = "load m0=model0 m1=model1; data m0=data0.jsonl m1=data1.jsonl; wrap; step; undo; step; wrap rows; undo; history";
    let (replies, ok) = json(&golden(""), line);
    assert!(ok, "{replies:?}");
    assert_eq!(replies[3]["total"], replies[5]["total"]);
    assert_eq!(replies[8]["here"], 5);
}

/// Equal sizes are not enough: `f`, the trainable kinds and the settings of the scheme must agree.
#[test]
fn snapshots_of_another_scheme_or_options_are_rejected() {
    let wrap = |f, train: &[Kind], rank| {
        let options = Options { f, train: train.to_vec(), ..Options::default() };
        load(["builtin:japanese", "builtin:math"])
            .unwrap()
            .wrap(LowRank { rank }.with(options))
            .unwrap()
    };
    let dam = wrap(Nonlinearity::None, &[Kind::Linear], 4);
    let moment = dam.snapshot().unwrap();
    dam.restore(&moment).unwrap();
    wrap(Nonlinearity::None, &[Kind::Linear], 4).restore(&moment).unwrap();
    for other in
        [wrap(Nonlinearity::Tanh, &[Kind::Linear], 4), wrap(Nonlinearity::None, &[Kind::Norm], 4)]
    {
        let before = coefficients(&other);
        assert!(other.restore(&moment).unwrap_err().to_string().contains("another merge"));
        assert_eq!(coefficients(&other), before);
    }
    // A scheme of the same sizes and another name.
    let models = load(["builtin:japanese", "builtin:math"]).unwrap();
    let (tensor, softmax) = (models.wrap(PerTensor).unwrap(), models.wrap(Softmax).unwrap());
    assert!(softmax.restore(&tensor.snapshot().unwrap()).is_err());
}

/// The summary of a saved session is one line, also after undoing everything.
#[test]
fn what_is_saved_is_summarised_in_one_line() {
    let kept = tempfile::tempdir().unwrap();
    let mut context = Context::default();
    for (line, told) in [
        ("load builtin:math", "1 change: load builtin:math"),
        ("load builtin:sql", "2 changes, the last: load builtin:sql"),
        ("undo", "2 changes, the last: load builtin:math"),
        ("undo", "2 changes, all undone"),
    ] {
        verbs(&mut context, line);
        context.keep(kept.path()).unwrap();
        assert_eq!(Context::summary(kept.path()).unwrap(), told, "{line}");
    }
}
