//! Sources whose vocabularies were extended, renumbered or padded: tokens are matched by their
//! text.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::common::{copy_checkpoint, json};
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Dataset;
use dam_prelude::{Columns, Dam, Models, Trace, load, methods::Linear};
use serde_json::json;

const VOCABULARY: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

type Tensors = HashMap<String, Tensor>;

fn tensors(directory: &Path) -> Tensors {
    safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap()
}

/// Row `row` of a tensor.
fn row(tensors: &Tensors, name: &str, row: usize) -> Vec<f32> {
    tensors[name].get(row).unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// Writes the golden checkpoint `golden` to `to` with the words `w0`..`w93` followed by the tokens
/// `added`; its vocabulary is truncated or padded to `rows`.
fn source(golden: &str, to: &Path, added: &[&str], rows: usize) {
    copy_checkpoint(golden, to);
    let mut all = tensors(to);
    for name in VOCABULARY {
        let old = &all[name];
        let more = Tensor::arange(0f32, (40 * old.dim(1).unwrap()) as f32, &Device::Cpu).unwrap();
        let more = (more / 4000.0).unwrap().reshape((40, ())).unwrap();
        let new = Tensor::cat(&[old, &more], 0)
            .unwrap()
            .narrow(0, 0, rows)
            .unwrap()
            .contiguous()
            .unwrap();
        all.insert(name.into(), new);
    }
    safetensors::save(&all, to.join("model.safetensors")).unwrap();
    let file = to.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["vocab_size"] = rows.into();
    fs::write(file, config.to_string()).unwrap();
    let words: HashMap<String, usize> = (0..94).map(|i| (format!("w{i}"), i)).collect();
    let special = |(i, token): (usize, &&str)| json!({"id": 94 + i, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added.iter().enumerate().map(special).collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    fs::write(to.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn load_named(dir: &Path, names: &[&str]) -> Models {
    load(names.iter().map(|name| dir.join(name).display().to_string())).unwrap()
}

fn average(models: &Models, to: &Path) -> Tensors {
    tensors(&models.merge(Linear::default()).unwrap().bake(to).unwrap().path)
}

fn mean(a: Vec<f32>, b: Vec<f32>) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect()
}

#[test]
fn tokens_are_matched_by_text_and_missing_rows_come_from_other_sources() {
    let dir = tempfile::tempdir().unwrap();
    source("model0", &dir.path().join("a"), &["<x>", "<y>"], 96);
    source("model1", &dir.path().join("b"), &["<y>", "<z>"], 97);
    let models = load_named(dir.path(), &["a", "b"]);
    let text = models.to_string();
    assert!(
        text.contains("a lacks 1 token (<z>)") && text.contains("b lacks 1 token (<x>)"),
        "{text}"
    );
    assert!(text.contains("present in b") && text.contains("present in a"), "{text}");

    let (a, b) = (tensors(&dir.path().join("a")), tensors(&dir.path().join("b")));
    let merged = average(&models, &dir.path().join("merged"));
    for name in VOCABULARY {
        assert_eq!(merged[name].dim(0).unwrap(), 97);
        for i in [0, 93] {
            assert_eq!(
                row(&merged, name, i),
                mean(row(&a, name, i), row(&b, name, i)),
                "{name} {i}"
            );
        }
        assert_eq!(row(&merged, name, 94), row(&a, name, 94), "<x>");
        assert_eq!(row(&merged, name, 95), mean(row(&a, name, 95), row(&b, name, 94)), "<y>");
        assert_eq!(row(&merged, name, 96), row(&b, name, 95), "<z>");
    }

    // The baked merge is a complete checkpoint, with a tokenizer that has all tokens.
    let opened = Source::open(&dir.path().join("merged").display().to_string()).unwrap();
    let ids =
        |text: &str| opened.tokenizer().unwrap().encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ids("w1 <x> <y><z>"), [1, 94, 95, 96]);
    assert_eq!(opened.architecture().unwrap().vocabulary, 97);

    // A source's data is tokenized with its own tokenizer and numbering.
    let file = dir.path().join("data.jsonl");
    fs::write(&file, "{\"text\": \"w1 <y> <z>\"}\n{\"input_ids\": [93, 94, 95]}\n").unwrap();
    let read = |name: &str| {
        let data =
            Dataset::read(&file.display().to_string(), models.source(name).unwrap()).unwrap();
        data.examples.into_iter().map(|e| e.ids).collect::<Vec<_>>()
    };
    assert_eq!(read("b"), [[1, 95, 96], [93, 95, 96]]);
    assert_eq!(read("a")[1], [93, 94, 95]);
    fs::write(&file, "{\"input_ids\": [97]}\n").unwrap();
    let error = Dataset::read(&file.display().to_string(), models.source("b").unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains("`97`") && error.contains("line `1`"), "{error}");
}

#[test]
fn a_trace_compares_sources_that_have_the_token() {
    let dir = tempfile::tempdir().unwrap();
    source("model0", &dir.path().join("a"), &["<x>", "<y>"], 96);
    source("model1", &dir.path().join("b"), &["<y>", "<z>"], 97);
    let dam = load_named(dir.path(), &["a", "b"]).wrap(Columns::default()).unwrap();
    let trace = |like: Option<&str>| {
        let (answer, like) = (Some("<z>".to_owned()), like.map(str::to_owned));
        dam.trace(Trace { answer, like, ..Trace::from("w1 w2") })
    };
    let report = trace(None).unwrap();
    assert_eq!((report.like(), report.token.as_str(), report.token_id), ("b", "<z>", 96));
    let without = report.traced.sources[0].readings.iter();
    assert!(without.clone().all(|r| r.log_prob.is_none() && r.likeliest != 96 && r.loss() > 1e9));
    assert!((report.traced.merge.attribution.loss() - report.loss()).abs() < 1e-4);
    let error = trace(Some("a")).unwrap_err().to_string();
    assert!(error.contains("`a` lacks the token `<z>`"), "{error}");
}

#[test]
fn recipes_match_tokens_with_the_named_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    source("model0", &dir.path().join("a"), &["<x>"], 95);
    source("model1", &dir.path().join("b"), &["<y>", "<x>"], 96);
    let recipe = |tokenizer: &str| {
        let models =
            "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]";
        let file = dir.path().join("recipe.yml");
        fs::write(
            &file,
            format!("merge_method: linear\n{models}\ntokenizer_source: {tokenizer}\n"),
        )
        .unwrap();
        let merged = Models::default().merge_recipe(file).unwrap();
        let out = merged.bake(dir.path().join(format!("out-{tokenizer}"))).unwrap().path;
        (
            tensors(&out),
            Source::open(&out.display().to_string()).unwrap(),
            merged.report().notes.join(" "),
        )
    };
    let (a, b) = (tensors(&dir.path().join("a")), tensors(&dir.path().join("b")));
    let x = |name: &str| mean(row(&a, name, 94), row(&b, name, 95));
    // A union keeps the ids of the first model's tokens.
    for (tokenizer, places) in [("union", [94, 95]), ("b", [95, 94])] {
        let (merged, opened, notes) = recipe(tokenizer);
        for name in VOCABULARY {
            assert_eq!(row(&merged, name, places[0]), x(name), "<x>");
            assert_eq!(row(&merged, name, places[1]), row(&b, name, 94), "<y>");
        }
        assert_eq!(opened.tokenizer().unwrap().token_to_id("<y>"), Some(places[1] as u32));
        assert!(!notes.contains("are dropped"), "{notes}");
    }
    let (merged, opened, notes) = recipe("a");
    assert_eq!(
        (merged[VOCABULARY[0]].dim(0).unwrap(), opened.architecture().unwrap().vocabulary),
        (95, 95)
    );
    assert_eq!(row(&merged, VOCABULARY[0], 94), x(VOCABULARY[0]));
    assert!(notes.contains("1 tokens are dropped") && notes.contains("`<y>`"), "{notes}");
}

#[test]
fn data_is_renumbered_when_a_source_adds_tokens() {
    let dir = tempfile::tempdir().unwrap();
    source("model0", &dir.path().join("a"), &["<z>"], 96);
    source("model1", &dir.path().join("b"), &["<x>", "<y>", "<z>"], 97);
    let file = dir.path().join("data.jsonl");
    fs::write(&file, "{\"text\": \"w1 <z>\"}\n").unwrap();
    let mut models = load_named(dir.path(), &["a"]);
    models.data("a", &file.display().to_string()).unwrap();
    // All tokens have the ids of `b`.
    let models = models.and_load([dir.path().join("b").display().to_string()]).unwrap();
    let read = Dataset::read(&file.display().to_string(), models.source("a").unwrap()).unwrap();
    assert_eq!(read.examples[0].ids, [1, 96]);
    let dam = models.wrap(Columns::default()).unwrap();
    dam.data("b", &file.display().to_string()).unwrap();
    let loss = dam.loss().unwrap();
    assert!(loss.terms.iter().all(|(_, x)| x.is_finite()));
    // Training resumes from a file exactly.
    dam.train(2).unwrap();
    dam.save(dir.path().join("session")).unwrap();
    let opened = Dam::open(dir.path().join("session")).unwrap();
    assert_eq!(opened.step().unwrap().total, dam.step().unwrap().total);
    dam.bake(dir.path().join("merged")).unwrap();
    assert_eq!(
        Source::open(&dir.path().join("merged").display().to_string())
            .unwrap()
            .architecture()
            .unwrap()
            .vocabulary,
        97
    );
}

/// Padding in only one source changes nothing for the others.
#[test]
fn tokens_missing_from_a_teacher_are_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    source("model0", &dir.path().join("a"), &["<x>", "<y>"], 96);
    source("model1", &dir.path().join("cut"), &["<x>", "<y>"], 96);
    source("model1", &dir.path().join("padded"), &["<x>", "<y>"], 128);
    let file = dir.path().join("data.jsonl");
    fs::write(&file, "{\"text\": \"w1 w5 w7 <y> w90\"}\n").unwrap();
    let data = file.display().to_string();
    for top_k in [0, 7] {
        let terms = |other: &str| {
            let mut models = load_named(dir.path(), &["a"])
                .and_load([format!("b={}", dir.path().join(other).display())])
                .unwrap();
            models.data("a", &data).unwrap();
            models.data("b", &data).unwrap();
            models.settings.top_k = top_k;
            models.settings.weights.mse = 0.1;
            models.settings.weights.entropy = 0.1;
            let dam = models.wrap(Columns::default()).unwrap();
            let terms: HashMap<String, f64> = dam.loss().unwrap().terms.into_iter().collect();
            dam.step().unwrap();
            (terms, dam)
        };
        let ((cut, _), (padded, dam)) = (terms("cut"), terms("padded"));
        for name in ["kl.a", "entropy.a"] {
            assert!(
                (cut[name] - padded[name]).abs() < 1e-6 * cut[name].abs(),
                "{name}: {} and {}",
                cut[name],
                padded[name]
            );
        }
        // The mean is over a larger vocabulary, whose remaining logits are equal on both sides.
        let mean = if top_k == 0 { 96.0 / 128.0 } else { 1.0 };
        assert!(
            (cut["mse.a"] * mean - padded["mse.a"]).abs() < 1e-6 * cut["mse.a"],
            "{cut:?} {padded:?}"
        );
        let text = dam.models().to_string();
        assert!(text.contains("a lacks 32 rows of padding, present in b"), "{text}");
    }
}

#[test]
fn families_that_cannot_run_are_matched_too() {
    let dir = tempfile::tempdir().unwrap();
    for (name, golden, added, rows) in
        [("a", "model0", vec!["<x>"], 95), ("b", "model1", vec!["<y>", "<x>"], 96)]
    {
        let to = dir.path().join(name);
        source(golden, &to, &added, rows);
        let text = fs::read_to_string(to.join("config.json")).unwrap();
        fs::write(to.join("config.json"), text.replace("\"llama\"", "\"mamba\"")).unwrap();
    }
    let (a, b) = (tensors(&dir.path().join("a")), tensors(&dir.path().join("b")));
    let (replies, ok) = json(dir.path(), "load a b; merge linear out");
    assert!(ok, "{replies:?}");
    assert_eq!(replies[0]["sources"][0]["lack"]["examples"], json!(["<y>"]));
    let merged = tensors(&dir.path().join("out"));
    for name in VOCABULARY {
        assert_eq!(row(&merged, name, 94), row(&b, name, 94), "<y>");
        assert_eq!(row(&merged, name, 95), mean(row(&a, name, 94), row(&b, name, 95)), "<x>");
    }
}

/// A source never generates tokens that it lacks, and is not scored on them.
#[test]
fn sources_are_not_scored_on_tokens_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    source("model0", &dir.path().join("a"), &["<x>"], 95);
    let (b, names) = (dir.path().join("b"), ["<x>", "<y>", "<z>"]);
    source("model1", &b, &names, 97);
    // For any hidden state, one of these two tokens has by far the largest logit.
    let mut all = tensors(&b);
    let head = &all["lm_head.weight"];
    let (rest, row) = (head.narrow(0, 0, 95).unwrap(), head.narrow(0, 1, 1).unwrap());
    let large = |x: f64| (&row * x).unwrap();
    let head = Tensor::cat(&[&rest, &large(1000.0), &large(-1000.0)], 0).unwrap();
    all.insert("lm_head.weight".into(), head);
    safetensors::save(&all, b.join("model.safetensors")).unwrap();

    let models = load_named(dir.path(), &["a", "b"]);
    let (dam, merged) =
        (models.wrap(Columns::default()).unwrap(), models.merge(Linear::default()).unwrap());
    let mut own = String::new();
    for word in 3..12 {
        let prompt = format!("w{word} <y>");
        for asked in [dam.ask(&prompt, 5).unwrap(), merged.ask(&prompt, 5).unwrap()] {
            // These tokens are special, so they have no text.
            assert_eq!((asked.tokens.len(), asked.text.as_str()), (5, ""));
            for token in &asked.tokens {
                assert!(
                    token.log_probs[0].is_none()
                        && token.log_probs[1].is_some()
                        && token.favours.is_none(),
                    "{token:?}"
                );
            }
            assert_eq!(
                (asked.sources[0].likelihood.tokens, asked.sources[0].lacks_of_prompt),
                (0, 1)
            );
            let text = asked.to_string();
            assert!(
                text.contains("a lacks 5 tokens of the answer")
                    && text.contains("a lacks 1 token of the prompt"),
                "{text}"
            );
            own += &asked.sources[0].answer;
        }
    }
    // The source itself never generates them; otherwise its answer would have no text.
    assert!(own.contains('w'), "{own}");
}
