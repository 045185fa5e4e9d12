//! Benchmark tasks, compared with lm-evaluation-harness through transformers, question by question;
//! the numbers were made by `tests/data/tasks/make.py`.

use std::collections::BTreeSet;
use std::fs;

use crate::common::{copy_builtin, data, json};
use dam_prelude::Error;
use dam_prelude::candle_core::{DType, Device};
use dam_prelude::checkpoint::Source;
use dam_prelude::eval::{Task, TaskOptions, TaskQuestion, TaskScores};
use dam_prelude::model::SourceWeights;
use serde_json::{Value, json};

/// The largest difference of log-likelihoods, in nats per token.
const NATS: f64 = 1e-4;

fn score(source: &Source, name: &str, options: TaskOptions) -> TaskScores {
    let task = Task::open(data(&format!("tasks/{name}.yaml"))).unwrap();
    let encoded = task.encode(source, &options).unwrap();
    let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
    encoded.score(source.architecture().unwrap(), &weights, &Device::Cpu).unwrap()
}

/// Compares the log-likelihood of a response with the harness's `[log_likelihood, is_greedy]`.
fn same_likelihood(found: Option<f64>, is_greedy: Option<bool>, expected: &Value, place: &str) {
    let (likelihood, greedy) = match expected {
        Value::Array(pair) => (pair[0].as_f64().unwrap(), pair[1].as_bool()),
        number => (number.as_f64().unwrap(), None),
    };
    let found = found.unwrap();
    assert!(
        (found - likelihood).abs() < NATS * likelihood.abs().max(1.0),
        "{place}: {found} {likelihood}"
    );
    assert_eq!(is_greedy, greedy, "{place}");
}

/// Compares a question with a sample of the harness; returns whether it was right by every metric.
fn compare(question: &TaskQuestion, sample: &Value, place: &str) {
    let texts = |key: &str| -> Vec<String> { serde_json::from_value(sample[key].clone()).unwrap() };
    let filter = sample["filter"].as_str().unwrap();
    let responses = sample["resps"].as_array().unwrap();
    let answers = &question.answers;
    if let Value::String(text) = &responses[0] {
        assert_eq!(question.contexts, texts("contexts"), "{place}");
        assert_eq!(&answers[0].text, text, "{place}");
        let filtered = match &sample["filtered"][0] {
            Value::String(text) => vec![text.clone()],
            tags => serde_json::from_value(tags.clone()).unwrap(),
        };
        assert_eq!(answers[0].filtered[filter], filtered, "{place}");
    } else if responses[0].is_array() {
        let mut contexts = texts("contexts");
        // Likelihoods without a context are logged behind the others.
        let continuations = texts("continuations");
        let without = question.without_context.len();
        contexts.truncate(if without > 0 { 1 } else { contexts.len() });
        let count = continuations.len() - without;
        if question.contexts.windows(2).all(|pair| pair[0] == pair[1]) {
            assert_eq!(question.contexts[0], contexts[0], "{place}");
        } else {
            assert_eq!(question.contexts, contexts, "{place}");
        }
        let own: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
        assert_eq!(own, continuations[..count], "{place}");
        for (answer, expected) in answers.iter().zip(responses) {
            same_likelihood(answer.log_likelihood, answer.is_greedy, expected, place);
        }
        for (likelihood, expected) in question.without_context.iter().zip(&responses[count..]) {
            same_likelihood(Some(*likelihood), expected[1].as_bool(), expected, place);
        }
    } else {
        assert_eq!(answers[0].text, texts("contexts")[0], "{place}");
        same_likelihood(answers[0].log_likelihood, None, &responses[0], place);
    }
    for (metric, value) in sample["metrics"].as_object().unwrap() {
        let value = value.as_f64().or(value[0].as_f64()).unwrap();
        let found = question.values[&format!("{metric},{filter}")];
        assert!(
            (found - value).abs() < NATS * value.abs().max(1.0),
            "{place} {metric}: {found} {value}"
        );
    }
}

/// Every output type, filter and metric, with examples drawn at random and in order, several
/// contexts, several targets, and contexts that are truncated.
#[test]
fn tasks_agree_with_lm_evaluation_harness() {
    let source = Source::open("builtin:math").unwrap();
    let cases = cases("expected");
    assert_eq!(cases.len(), 17);
    let mut questions = 0;
    let mut shares = BTreeSet::new();
    for case in &cases {
        let max_length = case["max_length"].as_u64().map(|length| length as usize);
        let options = TaskOptions { max_length, ..TaskOptions::default() };
        let found = score(&source, case["task"].as_str().unwrap(), options);
        questions += compare_all(&found, case);
        shares.extend(found.metrics.iter().filter(|m| m.is_share).map(|m| (m.value * 1e3) as i64));
    }
    assert!(questions > 300 && shares.len() > 6, "{questions} {shares:?}");
}

/// The same with `--apply_chat_template`, for the model's template and for one that refuses system
/// messages and trims: the description, examples as earlier turns, and the beginning of an answer.
#[test]
fn chats_agree_with_lm_evaluation_harness() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("math");
    copy_builtin("math", &model);
    let mut questions = 0;
    let mut without = BTreeSet::new();
    for case in cases("expected_chat") {
        fs::write(model.join("chat_template.jinja"), case["template"].as_str().unwrap()).unwrap();
        let source = Source::open(model.to_str().unwrap()).unwrap();
        let options = TaskOptions { chat: true, ..TaskOptions::default() };
        let found = score(&source, case["task"].as_str().unwrap(), options);
        questions += compare_all(&found, &case);
        without.insert(found.without_description);
    }
    assert!(questions > 200, "{questions}");
    assert_eq!(without, [0, 24].into());
}

fn cases(name: &str) -> Vec<Value> {
    serde_json::from_slice(&fs::read(data(&format!("tasks/{name}.json"))).unwrap()).unwrap()
}

/// Compares the scores of a task and its questions with the harness's. Returns the number of
/// samples.
fn compare_all(found: &TaskScores, case: &Value) -> usize {
    let name = case["task"].as_str().unwrap();
    let samples = case["samples"].as_array().unwrap();
    for sample in samples {
        let at = sample["doc_id"].as_u64().unwrap() as usize;
        compare(&found.answered[at], sample, &format!("{name} {} {at}", case["max_length"]));
    }
    let filters = samples.iter().map(|s| s["filter"].as_str()).collect::<BTreeSet<_>>().len();
    assert_eq!(found.questions * filters, samples.len(), "{name}");
    let results = case["results"].as_object().unwrap();
    assert_eq!(2 * found.metrics.len(), results.len(), "{name}");
    for metric in &found.metrics {
        let expected = results[&metric.key()].as_f64().unwrap();
        let close = |found: f64, expected: f64, part: f64| {
            let difference = (found - expected).abs();
            assert!(difference <= part * expected.abs(), "{name} {metric:?} {expected}");
        };
        // The scores of right answers are the same; perplexities differ as likelihoods do.
        let part = if metric.is_share { 1e-12 } else { 1e-3 };
        close(metric.value, expected, part);
        let stderr = results[&format!("{}_stderr,{}", metric.name, metric.filter)].as_f64();
        assert_eq!(metric.stderr.is_some(), stderr.is_some(), "{name} {metric:?}");
        if let (Some(found), Some(expected)) = (metric.stderr, stderr) {
            close(found, expected, part);
        }
    }
    samples.len()
}

/// A task of one question, with `change` in its keys.
fn changed(change: &str) -> Result<TaskScores, Error> {
    let directory = tempfile::tempdir().unwrap();
    let row = r#"{"q": "What is 12 plus 7?", "c": ["19", "18"], "right": 0, "bad": 7}"#;
    fs::write(directory.path().join("q.jsonl"), row).unwrap();
    let keys = "dataset_path: json\ndataset_kwargs: {data_files: q.jsonl}\noutput_type: multiple_choice\n\
                test_split: train\ndoc_to_text: q\ndoc_to_choice: c\ndoc_to_target: right\n";
    // A key replaces that of the file it includes.
    fs::write(directory.path().join("base.yaml"), keys).unwrap();
    fs::write(directory.path().join("task.yaml"), format!("include: base.yaml\n{change}\n"))
        .unwrap();
    let source = Source::open("builtin:math").unwrap();
    let task = Task::open(directory.path().join("task.yaml"))?;
    let encoded = task.encode(&source, &TaskOptions::default())?;
    let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
    encoded.score(source.architecture().unwrap(), &weights, &Device::Cpu)
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    assert_eq!(changed("task: t").unwrap().questions, 1);
    for (change, words) in [
        (
            "process_docs: !function utils.process_docs",
            &["process_docs", "!function", "data file"][..],
        ),
        ("process_results: x", &["process_results"]),
        ("limit: 3", &["limit", "limit=100"]),
        ("targt_delimiter: x", &["targt_delimiter", "target_delimiter"]),
        ("output_type: generate", &["output_type", "generate_until"]),
        ("test_split: test", &["test_split", "train"]),
        ("dataset_path: org/name", &["dataset_kwargs.data_files", "hub"]),
        ("dataset_path: name", &["dataset_path", "name", "org/name"]),
        ("process_docs: x", &["process_docs", "hellaswag"]),
        ("dataset_kwargs: {data_files: missing.jsonl}", &["missing.jsonl"]),
        ("dataset_kwargs: {data_files: '*.jsonl'}", &["data_files", "*.jsonl"]),
        ("dataset_kwargs: {data_files: q.jsonl, field: x}", &["dataset_kwargs.field"]),
        ("num_fewshot: 1\nfewshot_split: train", &["num_fewshot", "fewer than 1"]),
        ("num_fewshot: many", &["num_fewshot", "integer"]),
        ("fewshot_config: {sampler: balanced}", &["fewshot_config.sampler", "balanced"]),
        ("fewshot_config: {fewshot_indices: [1]}", &["fewshot_config.fewshot_indices"]),
        ("doc_to_text: \"{{q\"", &["{{q", "template"]),
        ("doc_to_text: \"{{missing}}\"", &["doc_to_text", "document 1 of train", "undefined"]),
        ("doc_to_text: c", &["doc_to_text", "not a text"]),
        ("doc_to_choice: \"{{q}}\"", &["doc_to_choice", "not a list"]),
        ("doc_to_choice: bad", &["doc_to_choice", "not a list of texts"]),
        ("doc_to_target: c", &["doc_to_target", "indices"]),
        ("metric_list: [{metric: f1}]", &["metric_list[0].metric", "f1", "acc_norm"]),
        ("metric_list: [{metric: acc, aggregation: median}]", &["aggregation", "mean"]),
        ("metric_list: [{metric: acc, ignore_case: true}]", &["ignore_case"]),
        ("filter_list: [{name: a, filter: [{function: regex}]}]", &["take_first"]),
        (
            "output_type: generate_until\nfilter_list: [{name: a, filter: [{function: custom}, {function: take_first}]}]",
            &["filter_list[0].filter[0].function", "custom"],
        ),
        (
            "output_type: generate_until\nfilter_list: [{name: a, filter: [{function: regex, regex_pattern: '('}, {function: take_first}]}]",
            &["regex_pattern"],
        ),
        ("output_type: generate_until\ngeneration_kwargs: {do_sample: true}", &["do_sample"]),
        (
            "output_type: generate_until\ngeneration_kwargs: {top_p: 1}",
            &["generation_kwargs.top_p"],
        ),
        ("output_type: generate_until", &["max_gen_toks", "256"]),
        ("repeats: 3", &["repeats"]),
        (
            "output_type: generate_until\nmetric_list: [{metric: execution_accuracy}]",
            &["database", "script: COLUMN"],
        ),
        ("database: {script: q}", &["database", "execution_accuracy"]),
        (
            "output_type: generate_until\nmetric_list: [{metric: execution_accuracy}]\ndatabase: {script: q}",
            &["document 1 of train", "syntax error"],
        ),
        (
            "output_type: generate_until\nmetric_list: [{metric: execution_accuracy}]\ndatabase: {directory: .}",
            &["document 1 of train", "db_id"],
        ),
        ("dataset_path: builtin:none\ndataset_kwargs: {}\ntest_split: test", &["none", "mini_sql"]),
        ("group: x", &["group"]),
        ("doc_to_text: [", &["YAML"]),
        ("include: task.yaml", &["include"]),
    ] {
        let error = changed(change).unwrap_err();
        let text = format!("{error}; {}", error.hint().unwrap());
        for word in words {
            assert!(text.contains(word), "{change}: {text}");
        }
    }
}

/// The verb: limits, questions, results in the harness's form, and the comparison with the sources.
#[test]
fn the_verb_shows_questions_and_writes_results() {
    let directory = tempfile::tempdir().unwrap();
    for file in ["choices.yaml", "train.jsonl", "test.jsonl", "words.yaml", "words.jsonl"] {
        fs::copy(data(&format!("tasks/{file}")), directory.path().join(file)).unwrap();
    }
    let run = |line: &str| {
        let line = format!("load builtin:japanese builtin:math; merge linear; {line}");
        let (replies, ok) = json(directory.path(), &line);
        (replies.last().unwrap().clone(), ok)
    };
    let tasks = "eval task:choices.yaml task:words.yaml builtin:math-heldout";
    let (reply, ok) = run(&format!("{tasks} --all limit=5 results=results.json --show"));
    assert!(ok, "{reply}");
    let choices = &reply["tasks"]["choices"];
    assert_eq!((&choices["questions"], &choices["documents"]), (&json!(5), &json!(24)));
    assert_eq!(reply["questions"].as_array().unwrap().len(), 10);
    assert_eq!(reply["questions"][0]["question"]["answers"].as_array().unwrap().len(), 4);
    let names: Vec<&String> = reply["paired"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["average", "japanese", "math"]);
    let paired = &reply["paired"]["math"];
    // The words of a likelihood have an accuracy too.
    assert_eq!(paired["questions"], json!(210));
    let (first, second) = (paired["first"].as_f64().unwrap(), paired["second"].as_f64().unwrap());
    let difference = paired["difference"].as_f64().unwrap();
    assert!((difference - (first - second) / 210.0).abs() < 1e-9 && difference < 0.0, "{paired}");
    let written: Value =
        serde_json::from_slice(&fs::read(directory.path().join("results.json")).unwrap()).unwrap();
    let (results, metric) = (&written["results"]["choices"], &choices["metrics"][0]);
    assert_eq!(results["acc,none"], metric["value"]);
    assert_eq!(results["acc_stderr,none"], metric["stderr"]);
    assert_eq!(written["n-samples"]["choices"], json!({"original": 24, "effective": 5}));
    assert_eq!(
        (&written["n-shot"]["choices"], &written["versions"]["choices"]),
        (&json!(0), &json!(1.0))
    );
    let sample = &written["samples"]["choices"][4];
    assert_eq!((&sample["doc_id"], sample["resps"].as_array().unwrap().len()), (&json!(4), 4));
    for (line, word) in [
        ("eval --show", "only tasks"),
        ("eval results=other.json", "only tasks"),
        ("eval builtin:math-heldout limit=3", "apply only to tasks"),
        ("eval builtin:math-heldout --chat", "apply only to tasks"),
        ("eval task:missing.yaml", "missing.yaml"),
        ("eval task:choices.yaml results=results.json", "exists"),
    ] {
        let (reply, ok) = run(line);
        assert!(!ok && reply.to_string().contains(word), "{line}: {reply}");
    }
    let (reply, ok) = run("compare linear slerp on=task:choices.yaml limit=5");
    assert!(ok, "{reply}");
    let paired = &reply["paired"][0];
    assert_eq!((&paired["first"], &paired["second"]), (&json!("linear"), &json!("slerp")));
    assert!(reply["rows"][0]["stderr"].is_f64(), "{reply}");
}
