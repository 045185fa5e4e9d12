//! Predefined tasks, compared with lm-evaluation-harness's own definitions on small
//! data sets in a hub cache; the numbers were made by `tests/data/tasks/ready/make.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::{copy_builtin, dam, data};
use serde_json::{Value, json};

/// The largest difference of log-likelihoods, in nats per token.
const NATS: f64 = 1e-4;

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(data(&format!("tasks/ready/{name}.json"))).unwrap()).unwrap()
}

/// Writes the data sets into a hub cache: every other one with a README that names its files, the
/// others by the conventions of names.
fn write_cache(cache: &Path) {
    let mut readmes: BTreeMap<String, String> = BTreeMap::new();
    for (i, set) in read("data").as_array().unwrap().iter().enumerate() {
        let (repo, config) = (set[0].as_str().unwrap(), set[1].as_str());
        let folder = cache.join(format!("datasets--{}", repo.replace('/', "--")));
        let snapshot = folder.join("snapshots/0123");
        let described = repo != "openai/gsm8k" && repo != "Rowan/hellaswag" && repo != "cais/mmlu";
        let directory = match (described, config) {
            (true, _) => format!("files-{i}"),
            (false, config) => config.unwrap_or("data").to_owned(),
        };
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), "0123").unwrap();
        fs::create_dir_all(snapshot.join(&directory)).unwrap();
        let start = || "---\nconfigs:\n".to_owned();
        if described {
            let readme = readmes.entry(repo.into()).or_insert_with(start);
            *readme += &format!("- config_name: {}\n  data_files:\n", config.unwrap_or("default"));
        }
        for (split, rows) in set[2].as_object().unwrap() {
            let lines = rows.as_array().unwrap().iter().map(|row| format!("{row}\n"));
            let lines: Vec<String> = lines.collect();
            let (first, second) = lines.split_at(lines.len() / 2);
            for (part, lines) in [first, second].iter().enumerate() {
                let name = format!("{directory}/{split}-{part:05}-of-00002.jsonl");
                fs::write(snapshot.join(name), lines.concat()).unwrap();
            }
            if let Some(readme) = readmes.get_mut(repo) {
                *readme += &format!("  - split: {split}\n    path: {directory}/{split}-*\n");
            }
        }
        if let Some(readme) = readmes.get(repo) {
            fs::write(snapshot.join("README.md"), format!("{readme}---\n# A data set\n")).unwrap();
        }
    }
}

fn run(directory: &Path, verbs: &str) -> Output {
    let mut command = dam(directory);
    command.args(["--json", "-c", verbs]);
    command.env("HF_HUB_CACHE", directory.join("hub")).env("HF_HUB_OFFLINE", "1");
    command.output().unwrap()
}

/// A directory with builtin:math, with more positions, and the data sets.
fn prepared() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("math");
    copy_builtin("math", &model);
    let config = model.join("config.json");
    let mut keys: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    keys["max_position_embeddings"] = json!(1024);
    fs::write(config, keys.to_string()).unwrap();
    write_cache(&directory.path().join("hub"));
    directory
}

#[test]
fn named_tasks_agree_with_lm_evaluation_harness() {
    let directory = prepared();
    let names = "arc_challenge arc_easy gsm8k hellaswag jcommonsenseqa mgsm_ja mgsm_native_cot_ja mmlu_social_sciences truthfulqa_mc1 truthfulqa_mc2 winogrande";
    let verbs = format!(
        "load a=math b=math; set dtype=f32; merge linear; eval {names} results=results.json"
    );
    let output = run(directory.path(), &verbs);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let found: Value =
        serde_json::from_slice(&fs::read(directory.path().join("results.json")).unwrap()).unwrap();
    let expected = read("expected");
    let results = expected["results"].as_object().unwrap();
    assert_eq!(found["results"].as_object().unwrap().len(), results.len());
    for (task, metrics) in results {
        for (metric, value) in metrics.as_object().unwrap() {
            let (own, value) = (&found["results"][task][metric], value.as_f64().unwrap());
            let own = own.as_f64().unwrap_or_else(|| panic!("{task} {metric}: {own}"));
            assert!((own - value).abs() < 1e-6, "{task} {metric}: {own} {value}");
        }
    }
    for (group, tasks) in expected["groups"].as_object().unwrap() {
        assert_eq!(&found["group_subtasks"][group], tasks);
        assert_eq!(found["groups"][group], found["results"][group]);
    }
    let mut questions = 0;
    for (task, samples) in expected["samples"].as_object().unwrap() {
        let own = found["samples"][task].as_array().unwrap();
        assert_eq!(own.len(), samples.as_array().unwrap().len(), "{task}");
        for sample in samples.as_array().unwrap() {
            let is_same = |one: &&Value| {
                (&one["doc_id"], &one["filter"]) == (&sample["doc_id"], &sample["filter"])
            };
            let one = own.iter().find(is_same).unwrap();
            let place = format!("{task} {}", sample["doc_id"]);
            assert_eq!(one["arguments"][0][0], sample["contexts"][0], "{place}");
            for (own, expected) in
                one["resps"].as_array().unwrap().iter().zip(sample["resps"].as_array().unwrap())
            {
                let Some(likelihood) = expected[0].as_f64() else {
                    assert_eq!(&own[0], expected, "{place}");
                    continue;
                };
                let own = own[0][0].as_f64().unwrap();
                let close = NATS * likelihood.abs().max(1.0);
                assert!((own - likelihood).abs() < close, "{place}: {own} {likelihood}");
            }
            questions += 1;
        }
    }
    assert!(questions > 100, "{questions}");
}

#[test]
fn data_that_is_not_there_is_named_with_the_way_to_get_it() {
    let directory = prepared();
    let hub = directory.path().join("hub");
    let gsm = hub.join("datasets--openai--gsm8k/snapshots/0123/main");
    fs::remove_file(gsm.join("test-00001-of-00002.jsonl")).unwrap();
    fs::remove_dir_all(hub.join("datasets--cais--mmlu")).unwrap();
    let winogrande = hub.join("datasets--allenai--winogrande/snapshots/0123/README.md");
    let readme = fs::read_to_string(&winogrande).unwrap();
    fs::write(&winogrande, readme.replace("winogrande_xl", "winogrande_s")).unwrap();
    for (task, words) in [
        ("gsm8k", &["openai/gsm8k", "of the 2 files", "1 are in the cache"][..]),
        ("mmlu", &["cais/mmlu", "hf download cais/mmlu --repo-type dataset"]),
        ("winogrande", &["winogrande_xl", "winogrande_s"]),
        ("task:hellaswg", &["hellaswg", "did you mean `hellaswag`?"]),
    ] {
        let output =
            run(directory.path(), &format!("load a=math b=math; merge linear; eval {task}"));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{task}: {text}");
        for word in words {
            assert!(text.contains(word), "{task}: {text}");
        }
    }
}

/// A group's file: tasks beside it, overrides, named tasks, groups within groups.
#[test]
fn groups_are_scored_as_one() {
    let directory = prepared();
    let at = |name: &str| directory.path().join(name);
    fs::write(
        at("sums.yaml"),
        "dataset_path: allenai/ai2_arc\ndataset_name: ARC-Easy\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: \"{{question}}\"\ndoc_to_choice: \"{{choices.text}}\"\ndoc_to_target: \"{{choices.label.index(answerKey)}}\"\n",
    )
    .unwrap();
    fs::write(
        at("all.yaml"),
        "group: all\ntask:\n- sums\n- winogrande\n- group: inner\n  task: [arc_challenge, {task: arc_easy, num_fewshot: 1}]\naggregate_metric_list:\n- {metric: acc, weight_by_size: false}\n",
    )
    .unwrap();
    let output = run(
        directory.path(),
        "load a=math b=math; merge linear; eval task:all.yaml results=r.json",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let found: Value = serde_json::from_slice(&fs::read(at("r.json")).unwrap()).unwrap();
    assert_eq!(
        found["group_subtasks"]["all"],
        json!(["sums", "winogrande", "arc_challenge", "arc_easy"])
    );
    let acc = |task: &str| found["results"][task]["acc,none"].as_f64().unwrap();
    let mean = (acc("sums") + acc("winogrande") + acc("arc_challenge") + acc("arc_easy")) / 4.0;
    assert!((acc("all") - mean).abs() < 1e-12);
    assert_eq!(found["n-shot"]["arc_easy"], json!(1));
    fs::write(at("loop.yaml"), "group: loop\ntask: [loop]\n").unwrap();
    for (file, words) in [
        ("loop", &["deep", "cycle"][..]),
        ("empty", &["no tasks"]),
        ("twice", &["another task has the name", "arc_easy"]),
    ] {
        fs::write(at("empty.yaml"), "group: empty\n").unwrap();
        let twice = "group: twice\ntask: [arc_easy, {task: arc_easy, num_fewshot: 1}]\n";
        fs::write(at("twice.yaml"), twice).unwrap();
        let verbs = format!("load a=math b=math; merge linear; eval task:{file}.yaml");
        let output = run(directory.path(), &verbs);
        let text = String::from_utf8_lossy(&output.stdout);
        for word in words {
            assert!(text.contains(word), "{file}: {text}");
        }
    }
}

/// The scores in a model card, as the hub reads them.
#[test]
fn a_model_card_has_the_scores() {
    let directory = prepared();
    let verbs = "load a=math b=builtin:japanese; wrap; eval winogrande; bake out";
    let output = run(directory.path(), verbs);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let card = fs::read_to_string(directory.path().join("out/README.md")).unwrap();
    let line = card.lines().find_map(|line| line.strip_prefix("model-index: ")).unwrap();
    let index: Value = serde_json::from_str(line).unwrap();
    let result = &index[0]["results"][0];
    assert_eq!(index[0]["name"], "DAM merge of a, b");
    assert_eq!(
        result["dataset"],
        json!({"name": "winogrande", "type": "allenai/winogrande", "config": "winogrande_xl", "split": "validation"})
    );
    assert_eq!(result["metrics"][0]["type"], "acc");
    assert!(result["metrics"][0]["value"].is_f64());
}
