//! `trace` as a user meets it: its text, its JSON, and what it refuses.

use crate::common::{golden, json, verbs};
use serde_json::Value;

const LOAD: &str = "load builtin:japanese builtin:math; wrap";
const QUESTION: &str = "Subtract 55 from 94.";

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn the_text_has_three_tables_and_the_loss_at_its_foot() {
    let dir = tempfile::tempdir().unwrap();
    let output = verbs(dir.path(), &format!("{LOAD}; trace {QUESTION} like=math"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for words in [
        "in the answer of math: \"94 - 55 = 39\"",
        "DAM expects",
        "from japanese",
        "embedding",
        "layer 3",
        "contributions to the logit, and patches of parts, in nats",
        "patches of tensors, each taken from math",
        "first drift that matters: ",
        ": mix ",
        "less the sum of all contributions (help trace)",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(text.trim_end().lines().last().unwrap().starts_with("loss -ln p = "), "{text}");
}

#[test]
fn json_has_everything_and_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!(
        "{LOAD}; trace {QUESTION} like=math; trace {QUESTION} answer=\"94 - 55 = 39\"; trace row=2 of=japanese; \
         merge linear; trace {QUESTION} like=math; history; export out.rs"
    );
    let (replies, ok) = json(dir.path(), &line);
    assert!(ok, "{replies:?}");
    let [_, _, own, given, row, _, merged, history, _] = &replies[..] else {
        panic!("{replies:?}")
    };
    let (merge, places) = (&own["merge"], own["streams"].as_array().unwrap().len());
    assert_eq!((places, own["tensors"].as_array().unwrap().len()), (5, 38));
    let number = |value: &Value| value.as_f64().unwrap();
    let sum: f64 = (merge["contributions"].as_array().unwrap().iter())
        .map(|part| number(&part["logit"]))
        .sum();
    assert!((number(&merge["normaliser"]) - sum - number(&own["loss"])).abs() < 1e-5);
    assert!((-number(&merge["probability"]).ln() - number(&own["loss"])).abs() < 1e-9);
    let gap = number(&own["loss"]) - number(&own["sources"]["math"]["loss"]);
    assert!((number(&own["gap"]) - gap).abs() < 1e-9);
    assert_eq!(merge["places"].as_array().unwrap().len(), places);
    let drift = own["drift"]["japanese"]["distance"].as_array().unwrap();
    let tokens = own["before"].as_array().unwrap().len();
    assert_eq!((drift.len(), numbers(&drift[0]).len()), (places, tokens));
    // What math answers by itself, here given.
    for key in ["answer", "token", "like", "tensor"] {
        assert_eq!(own[key], given[key], "{key}");
    }
    assert_eq!((&given["origin"], &own["origin"]), (&"as given".into(), &"of math".into()));
    assert_eq!(
        (&row["like"], &row["origin"]),
        (&"japanese".into(), &"of row 2 of japanese".into())
    );
    assert!((number(&merged["loss"]) - number(&own["loss"])).abs() < 1e-4);
    let code = std::fs::read_to_string(dir.path().join("out.rs")).unwrap();
    for call in [
        "dam.trace(Trace { row: Some((\"japanese\".into(), 2)), ..Trace::default() })?",
        "answer: Some(\"94 - 55 = 39\").map(String::from)",
        "merged.trace(Trace {",
    ] {
        assert!(code.contains(call), "no {call} in {code}");
    }
    // Four traces are no states.
    assert_eq!(history["states"].as_array().unwrap().len(), 3, "{history}");
}

#[test]
fn unsuitable_arguments_are_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    for (line, words, hint) in [
        ("trace", "the prompt is missing", "usage: trace [\"PROMPT\"]"),
        ("trace hi like=sql", "unknown source `sql`", "known: japanese, math"),
        ("trace hi answer=\"\"", "the answer is empty", "answer=\"TEXT\""),
        ("trace row=3", "no source for the row", "row=3 of=SOURCE"),
        ("trace hi of=math", "`of` needs a row", "row=3 of=SOURCE"),
        ("trace hi row=1 of=math", "a row has its own prompt", "or a prompt"),
        ("trace row=1 of=math answer=x", "a row has its own prompt", "or a prompt"),
        ("trace row=100000 of=math", "`100000` for `row`", "a number from 1 to "),
        ("trace row=0 of=math", "`0` for `row`", "at least 1"),
        ("trace row=1 of=maths", "unknown source `maths`", "did you mean `math`?"),
        ("trace hi lik=math tokens=2 like=x", "unknown source `x`", "known"),
    ] {
        let (replies, ok) = json(dir.path(), &format!("{LOAD}; {line}"));
        let last = replies.last().unwrap();
        assert!(!ok && last["error"].as_str().unwrap().contains(words), "{line}: {last}");
        assert!(last["hint"].as_str().unwrap().contains(hint), "{line}: {last}");
    }
    let (replies, ok) = json(&golden(""), "load m0=model0 m1=model1; wrap; trace hi");
    assert!(!ok && replies[2]["error"].as_str().unwrap().contains("tokenizer"), "{replies:?}");
    let (replies, ok) = json(dir.path(), "load builtin:math builtin:sql; trace hi");
    assert!(!ok && replies[1]["hint"].as_str().unwrap().contains("wrap"), "{replies:?}");
}
