//! Queries that are run: compared with transformers' answers and Python's sqlite3, by
//! `tests/data/tasks/queries/make.py`; Spider's layout; the built-in tasks.

use std::fs;

use crate::common::{data, json};
use serde_json::{Value, json};

#[test]
fn queries_are_judged_as_python_judges_them() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(data("tasks/queries/queries.yaml"), directory.path().join("queries.yaml")).unwrap();
    let verbs = "load builtin:sql builtin:math; merge linear weight=1,0; eval task:queries.yaml --chat --show";
    let (replies, ok) = json(directory.path(), verbs);
    let reply = replies.last().unwrap();
    assert!(ok, "{reply}");
    let expected = fs::read(data("tasks/queries/expected.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_slice(&expected).unwrap();
    let questions = reply["questions"].as_array().unwrap();
    assert_eq!(questions.len(), expected.len());
    let (mut right, mut failed) = (0, 0);
    for (found, expected) in questions.iter().zip(&expected) {
        let (answer, values) = (&found["question"]["answers"][0], &found["question"]["values"]);
        assert_eq!(answer["text"], expected["answer"]);
        assert_eq!(answer["filtered"]["query"], json!([expected["query"]]));
        let is_right = expected["right"] == true;
        assert_eq!(values["execution_accuracy,query"] == 1.0, is_right, "{found}");
        right += usize::from(is_right);
        failed += usize::from(answer["failures"]["query"].is_string());
        assert!(!is_right || answer["failures"]["query"].is_null());
    }
    assert!((40..70).contains(&right) && failed > 0, "{right} {failed}");
    assert_eq!(reply["tasks"]["queries"]["metrics"][0]["value"], json!(right as f64 / 100.0));
}

#[test]
fn a_directory_in_spiders_layout_is_a_task() {
    let directory = tempfile::tempdir().unwrap();
    let verbs = format!(
        "load builtin:sql builtin:math; merge linear; eval spider:{} max_length=200 --show",
        data("tasks/queries/spider").display()
    );
    let (replies, ok) = json(directory.path(), &verbs);
    let reply = replies.last().unwrap();
    assert!(ok, "{reply}");
    assert_eq!(reply["tasks"]["spider"]["questions"], 3);
    let context = reply["questions"][0]["question"]["contexts"][0].as_str().unwrap();
    let end = "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, price INTEGER);\n\
               CREATE TABLE buyers (order_id INTEGER REFERENCES orders(id), name TEXT);\n\
               Question: List the item of orders with price over 10.\nSQL:";
    assert!(context.ends_with(end), "{context}");
    assert!(context.contains("SQL: SELECT inhabitants FROM cities WHERE name = 'Oslo'\n\n"));
    let verbs = "load builtin:sql builtin:math; merge linear; eval spider:missing";
    let (replies, ok) = json(directory.path(), verbs);
    assert!(!ok && replies.last().unwrap()["error"].as_str().unwrap().contains("missing/dev.json"));
}

/// Each has its questions, examples and metrics, on models that know little of them.
#[test]
fn built_in_tasks_have_only_to_be_named() {
    let directory = tempfile::tempdir().unwrap();
    let tasks = "eval mini_japanese mini_math mini_sql limit=4 max_length=200";
    let (replies, ok) = json(
        directory.path(),
        &format!("load builtin:japanese builtin:math; merge linear; {tasks}"),
    );
    let reply = replies.last().unwrap();
    assert!(ok, "{reply}");
    for (task, shots, metrics) in [
        ("mini_japanese", 2, &["acc", "acc_norm"][..]),
        ("mini_math", 4, &["exact_match", "exact_match"]),
        ("mini_sql", 3, &["execution_accuracy"]),
    ] {
        let task = &reply["tasks"][task];
        assert_eq!((&task["shots"], &task["documents"]), (&json!(shots), &json!(100)));
        let names: Vec<&str> = task["metrics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, metrics);
    }
}
