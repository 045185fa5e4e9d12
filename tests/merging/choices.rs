//! Multiple choice, compared with lm-evaluation-harness; the numbers were made by
//! `tests/data/choices/make.py`.

use std::fs;
use std::path::Path;

use crate::common::{data, json};
use dam_prelude::candle_core::{DType, Device};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Dataset;
use dam_prelude::eval::{choose, option_likelihoods};
use dam_prelude::model::SourceWeights;
use serde_json::{Value, json};

/// A copy of `builtin:math` without its chat template.
fn plain(to: &Path) {
    crate::common::copy_builtin("math", to);
    let config = to.join("tokenizer_config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    settings.as_object_mut().unwrap().remove("chat_template");
    fs::write(config, settings.to_string()).unwrap();
}

#[test]
fn option_likelihoods_match_lm_evaluation_harness() {
    let dir = tempfile::tempdir().unwrap();
    plain(&dir.path().join("plain"));
    let sources = [
        Source::open("builtin:math"),
        Source::open(&dir.path().join("plain").display().to_string()),
    ]
    .map(Result::unwrap);
    let cases: Vec<Value> =
        serde_json::from_slice(&fs::read(data("choices/choices.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 24);
    let (mut cut, mut right) = (0, Vec::new());
    for case in &cases {
        let source = &sources[usize::from(case["templated"] == false)];
        let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
        let length = case["max_length"].as_u64().unwrap() as usize;
        let file = dir.path().join("row.jsonl");
        fs::write(&file, case["row"].to_string()).unwrap();
        let read = Dataset::read(&file.display().to_string(), source).unwrap();
        let question = &read.questions[0];
        let found = option_likelihoods(
            source.architecture().unwrap(),
            &weights,
            question,
            length,
            &Device::Cpu,
        )
        .unwrap();
        let expected: Vec<f64> = serde_json::from_value(case["log_likelihoods"].clone()).unwrap();
        let tokens: Vec<usize> = serde_json::from_value(case["tokens"].clone()).unwrap();
        assert_eq!(found.iter().map(|x| x.tokens).collect::<Vec<_>>(), tokens, "{case}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found.log_likelihood - expected).abs() < 1e-5 * expected.abs().max(10.0),
                "{found:?} {expected} {case}"
            );
        }
        cut += usize::from(question.options.iter().any(|option| option.ids.len() > length + 1));
        let best =
            (0..expected.len()).max_by(|a, b| expected[*a].total_cmp(&expected[*b])).unwrap();
        let chosen =
            choose(source.architecture().unwrap(), &weights, &read.questions, length, &Device::Cpu)
                .unwrap();
        assert_eq!(chosen.accuracy, f64::from(u8::from(best == question.right)), "{case}");
        assert!((chosen.right.log_likelihood - expected[question.right]).abs() < 1e-3, "{case}");
        right.push(chosen.accuracy);
    }
    // The cases cover truncated and whole questions, with right and wrong answers.
    assert!(
        (6..18).contains(&cut) && right.contains(&0.0) && right.contains(&1.0),
        "{cut} {right:?}"
    );
}

/// A question that leaves no room for its options is truncated on the left and scored by the rest.
#[test]
fn long_questions_are_truncated_on_the_left() {
    let dir = tempfile::tempdir().unwrap();
    let long = "Tom has 75 apples and gets 3 more. ".repeat(60);
    let row = |right: usize| {
        json!({"question": format!("{long}What is 12 plus 7?"), "choices": ["12 + 7 = 19", "12 + 7 = 18", "x"], "answer": right})
            .to_string()
    };
    fs::write(dir.path().join("q.jsonl"), [row(0), row(1)].join("\n")).unwrap();
    let (replies, ok) = json(
        dir.path(),
        "load a=builtin:math b=builtin:math; set max_length=32; merge linear; eval q.jsonl",
    );
    assert!(ok, "{replies:?}");
    let score = &replies[3]["scores"]["q"];
    assert_eq!((&score["multiple_choice"], &score["tokens"]), (&json!(0.5), &json!(18)), "{score}");
    assert!(score["loss"].as_f64().unwrap() > 0.01, "{score}");
    for (row, word) in [
        (json!({"question": "a", "choices": ["b", ""], "answer": 0}), "empty"),
        (json!({"question": "a", "choices": ["b", "c"], "answer": 4}), "not one of its 2"),
    ] {
        fs::write(dir.path().join("bad.jsonl"), row.to_string()).unwrap();
        let (replies, ok) =
            json(dir.path(), "load a=builtin:math b=builtin:math; merge linear; eval bad.jsonl");
        assert!(
            !ok && replies[2].to_string().contains(word) && replies[2].to_string().contains("hint"),
            "{replies:?}"
        );
    }
}
