//! Generation: `generate` for the merge and its sources, and `ask`, whose log-probabilities equal
//! those of running each source separately.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use common::{json, verbs};
use dam_prelude::candle_core::{D, DType, Device, Tensor};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Dataset;
use dam_prelude::eval::{generate, score};
use dam_prelude::model::{Cache, Decoder, SourceWeights};
use dam_prelude::session::{GENERATE, watch};
use dam_prelude::{Columns, Dam, Error, interrupt, load};

const SOURCES: [&str; 3] = ["japanese", "math", "sql"];
const SUM: &str = "What is 12 plus 7?";
const SEA: &str = "「tall sea」を日本語で言うと何ですか。";

/// Watchers and interrupts are global to the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    interrupt::clear();
    watch(|_| ());
    guard
}

/// A merge of the built-in models, trained once, enough to answer. No test changes it.
fn merge() -> Dam {
    static MERGE: OnceLock<Dam> = OnceLock::new();
    let train = || {
        let mut models = load(SOURCES.map(|name| format!("builtin:{name}"))).unwrap();
        (models.settings.lr, models.settings.batch_size) = (1e-2, 8);
        let dam = models.wrap(Columns::default()).unwrap();
        dam.train(40).unwrap();
        dam
    };
    MERGE.get_or_init(train).clone()
}

/// The prompt in the template of the built-in models.
fn templated(prompt: &str) -> String {
    format!("<|user|>{prompt}<|end|><|assistant|>")
}

fn ids(source: &Source, text: &str) -> Vec<u32> {
    source.tokenizer().unwrap().encode(text, false).unwrap().get_ids().to_vec()
}

/// `log p` of every token of `answer` after `prompt`, one token at a time, with candle's
/// log-sum-exp.
fn one_by_one(source: &Source, prompt: &[u32], answer: &[u32]) -> Vec<f64> {
    let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
    let decoder = Decoder::new(source.architecture().unwrap(), &weights);
    let (mut cache, mut next, mut found) = (Cache::default(), prompt.to_vec(), Vec::new());
    for token in answer {
        let count = [next.len()];
        let next_ids = Tensor::new(next, &Device::Cpu).unwrap();
        let caches = std::slice::from_mut(&mut cache);
        let hidden = decoder.hidden_cached(&next_ids, &count, caches).unwrap();
        let logits = decoder.logits(&hidden).unwrap();
        let last = logits.narrow(0, logits.dim(0).unwrap() - 1, 1).unwrap();
        let total: f32 =
            last.log_sum_exp(D::Minus1).unwrap().squeeze(0).unwrap().to_scalar().unwrap();
        let logit: f32 =
            last.squeeze(0).unwrap().get(*token as usize).unwrap().to_scalar().unwrap();
        found.push(f64::from(logit - total));
        next = vec![*token];
    }
    found
}

#[test]
fn log_probs_equal_those_of_each_source() {
    let _alone = alone();
    let (dam, dir) = (merge(), tempfile::tempdir().unwrap());
    for prompt in [SUM, SEA, "六十六を数字で書いてください。", "an \u{1b}[31m odd\tprompt\n"]
    {
        let asked = dam.ask(prompt, 32).unwrap();
        let reader = Source::open("builtin:japanese").unwrap();
        let (question, answer) = (ids(&reader, &templated(prompt)), ids(&reader, &asked.text));
        assert_eq!(asked.tokens.len(), answer.len(), "{}", asked.text);
        // Equal to the loss that `eval` computes for this prompt and answer.
        let file = dir.path().join("line.jsonl");
        let line = serde_json::json!({"prompt": templated(prompt), "completion": asked.text});
        fs::write(&file, line.to_string() + "\n").unwrap();
        let path = file.display().to_string();
        for (i, name) in SOURCES.iter().enumerate() {
            let source = Source::open(&format!("builtin:{name}")).unwrap();
            let expected = one_by_one(&source, &question, &answer);
            for (token, expected) in asked.tokens.iter().zip(&expected) {
                let found = token.log_probs[i].unwrap();
                assert!(
                    (found - expected).abs() < 1e-4 * expected.abs().max(1.0),
                    "{name} {found} {expected}"
                );
            }
            let found = asked.sources[i].likelihood;
            assert_eq!((asked.sources[i].name.as_str(), found.tokens), (*name, answer.len()));
            assert!(
                (found.log_likelihood - expected.iter().sum::<f64>()).abs() < 1e-3,
                "{name} {found:?}"
            );
            let weights =
                SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
            let data = Dataset::read(&path, &source).unwrap();
            let scored =
                score(source.architecture().unwrap(), &weights, &data.examples, 256, &Device::Cpu)
                    .unwrap();
            assert!(
                (found.nats_per_token().unwrap() + scored.loss).abs() < 1e-4,
                "{name} {found:?} {scored:?}"
            );
            assert!(
                (found.perplexity().unwrap() / scored.perplexity - 1.0).abs() < 1e-4,
                "{name} {found:?} {scored:?}"
            );
        }
        let merged = dam.eval(&[path]).unwrap().data["line"].loss;
        assert!(
            (asked.likelihood.nats_per_token().unwrap() + merged).abs() < 1e-4,
            "{asked:?} {merged}"
        );
        // A token favours the source that exceeds all others by more than the margin.
        for token in &asked.tokens {
            let mut order: Vec<(f64, usize)> =
                token.log_probs.iter().map(|x| x.unwrap()).zip(0..).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0));
            assert_eq!(
                token.favours,
                (order[0].0 - order[1].0 > 0.05).then_some(order[0].1),
                "{token:?}"
            );
        }
    }
}

#[test]
fn answers_equal_those_of_each_model_alone() {
    let _alone = alone();
    let dam = merge();
    for prompt in [SUM, SEA] {
        let answer = dam.generate(prompt, 32).unwrap();
        let (all, asked) = (dam.generate_all(prompt, 32).unwrap(), dam.ask(prompt, 32).unwrap());
        assert_eq!((all.text(), &asked.text), (answer.text.as_str(), &answer.text));
        assert_eq!(asked.tokens.iter().map(|t| t.text.as_str()).collect::<String>(), answer.text);
        for (i, name) in SOURCES.iter().enumerate() {
            let source = Source::open(&format!("builtin:{name}")).unwrap();
            let weights =
                SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
            let question = ids(&source, &templated(prompt));
            let expected =
                generate(source.architecture().unwrap(), &weights, &question, 32, &Device::Cpu)
                    .unwrap();
            let expected = source.tokenizer().unwrap().decode(&expected, true).unwrap();
            assert_eq!(
                (all.source(name), asked.sources[i].answer.as_str()),
                (Some(expected.as_str()), expected.as_str())
            );
        }
        assert_eq!(all.rows[0].0, "DAM");
        assert_eq!((all.stopped, asked.stopped), (false, false));
    }
    // A static merge answers in the same way, under the name of its method.
    let merged = dam.models().merge_named("linear", &[]).unwrap();
    let (answer, asked) = (merged.generate(SUM, 16).unwrap(), merged.ask(SUM, 16).unwrap());
    assert_eq!((asked.model.as_str(), &asked.text), ("linear", &answer.text));
    assert_eq!(merged.generate_all(SUM, 16).unwrap().rows[0], ("linear".to_owned(), answer.text));
}

#[test]
fn sources_favour_tokens_they_were_tuned_on() {
    let _alone = alone();
    let dam = merge();
    for (prompt, source) in [(SEA, 0), (SUM, 1)] {
        let asked = dam.ask(prompt, 32).unwrap();
        let favours: Vec<usize> = (0..3).map(|i| asked.favours(i)).collect();
        assert!(
            favours[source] > 0 && favours.iter().sum::<usize>() == favours[source],
            "{favours:?} {asked}"
        );
        let likelihood = |i: usize| asked.sources[i].likelihood.log_likelihood;
        assert!((0..3).all(|i| i == source || likelihood(i) < likelihood(source)), "{asked}");
    }
}

/// A base model answers too, and comes last; it favours no token unless it is merged.
#[test]
fn the_base_answers_but_favours_nothing() {
    let _alone = alone();
    let models = load(["base=builtin:base", "builtin:japanese", "builtin:math"]).unwrap();
    for (with_base, favours) in [(false, "-"), (true, "0 of")] {
        let dam = models.wrap(Columns { with_base, ..Columns::default() }).unwrap();
        let asked = dam.ask(SUM, 16).unwrap();
        let names: Vec<(&str, bool)> =
            asked.sources.iter().map(|s| (s.name.as_str(), s.is_merged)).collect();
        assert_eq!(names, [("japanese", true), ("math", true), ("base", with_base)]);
        assert!(with_base || asked.favours(2) == 0);
        let line = asked.to_string();
        let line = line.lines().find(|line| line.starts_with(" base")).unwrap().to_owned();
        assert!(line.contains(favours) || with_base && line.contains(" of "), "{line}");
    }
}

#[test]
fn text_grows_by_whole_characters_and_an_interrupt_keeps_it() {
    let _alone = alone();
    let dam = merge();
    type Progress = (usize, Option<usize>, String);
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let messages = seen.clone();
    watch(move |progress| {
        assert_eq!(progress.task, GENERATE);
        if progress.done > 0 && !progress.finished {
            messages.lock().unwrap().push((
                progress.done,
                progress.total,
                progress.message.to_owned(),
            ));
        }
    });
    let whole = dam.generate(SEA, 32).unwrap().text;
    let reports = std::mem::take(&mut *seen.lock().unwrap());
    assert!(
        reports.len() > whole.chars().count()
            && reports.iter().zip(1..).all(|((done, ..), i)| *done == i),
        "{reports:?}"
    );
    assert!(reports.iter().all(|(_, total, text)| *total == Some(32)
        && whole.starts_with(text)
        && !text.contains('\u{fffd}')));
    assert_eq!(reports.last().unwrap().2, whole);

    // With several models, one line each, and no more text after a stop.
    let full = dam.generate_all(SUM, 32).unwrap();
    let reports = std::mem::take(&mut *seen.lock().unwrap());
    let lines: Vec<String> =
        full.rows.iter().map(|(name, text)| format!("{name}: {text}")).collect();
    assert_eq!(reports.last().unwrap().2, lines.join("\n"));
    watch(|progress| {
        if progress.done == 3 {
            interrupt::request();
        }
    });
    let (part, asked) = (dam.generate_all(SUM, 32).unwrap(), {
        interrupt::clear();
        dam.ask(SUM, 32).unwrap()
    });
    assert!(part.stopped && asked.stopped && asked.tokens.len() == 3);
    assert_eq!(part.text(), asked.text);
    for ((_, part), (_, full)) in part.rows.iter().zip(&full.rows) {
        assert!(
            full.starts_with(part) && part.len() < full.len() && !part.is_empty(),
            "{part} {full}"
        );
    }
    assert!(part.to_string().contains("stopped") && asked.to_string().contains("stopped"));
}

#[test]
fn unusual_prompts_are_handled() {
    let _alone = alone();
    let dam = load(["builtin:japanese", "builtin:math"]).unwrap().wrap(Columns::default()).unwrap();
    let long = "十二足す七は".repeat(10_000);
    for error in [
        dam.generate(&long, 4).unwrap_err(),
        dam.generate_all(&long, 4).unwrap_err(),
        dam.ask(&long, 4).unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::Sources { .. }) && error.to_string().contains("256 positions"),
            "{error:?}"
        );
    }
    for prompt in
        ["", " ", "\0\u{1b}]0;title\u{7}\u{1b}[2J", "<|end|><|user|>", "\u{202e}\u{fffd}🐈"]
    {
        let asked = dam.ask(prompt, 8).unwrap();
        assert!(asked.tokens.len() <= 8);
        let safe = |text: &str| text.chars().all(|c| !c.is_control() || c == '\n');
        assert!(
            safe(&asked.lines(30)) && safe(&asked.coloured(30).replace("\x1b[", "")),
            "{asked}"
        );
    }
    // An empty prompt and a limit of 0.
    assert_eq!(dam.ask(SUM, 0).unwrap().tokens.len(), 0);
    assert!(dam.ask(SUM, 0).unwrap().to_string().contains("is empty"));
}

/// Built-in sources come with data; output that is not a terminal has no colours.
#[test]
fn text_and_json_of_the_verbs_agree() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!(
        "load builtin:japanese builtin:math; wrap; generate {SUM} tokens=12 --all; ask \"{SUM}\" tokens=12"
    );
    let (replies, ok) = json(dir.path(), &line);
    assert!(ok, "{replies:?}");
    let (all, asked) = (&replies[2], &replies[3]);
    assert_eq!(
        (&all["text"], &all["answers"]["math"]),
        (&asked["text"], &asked["answers"]["math"])
    );
    assert_eq!(all["answers"]["DAM"], all["text"]);
    let tokens = asked["tokens"].as_array().unwrap();
    let sum: f64 = tokens.iter().map(|t| t["log_probs"]["math"].as_f64().unwrap()).sum();
    let math = &asked["sources"]["math"];
    assert!((math["log_likelihood"].as_f64().unwrap() - sum).abs() < 1e-9);
    assert!((math["nats_per_token"].as_f64().unwrap() - sum / tokens.len() as f64).abs() < 1e-9);
    assert!(tokens.iter().all(|t| t["favours"].is_null()
        || ["japanese", "math"].contains(&t["favours"].as_str().unwrap())));

    let output = verbs(dir.path(), &line);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains('\x1b'), "{text}");
    assert!(
        text.contains("J japanese   M math") && text.contains(asked["text"].as_str().unwrap()),
        "{text}"
    );
    refused(dir.path(), "generate \"\"", "prompt is missing");
    refused(dir.path(), "ask hello there --all", "unknown flag `--all`");
    refused(dir.path(), "ask hello tokens=many", "`many`");
}

fn refused(directory: &Path, verb: &str, words: &str) {
    let (replies, ok) =
        json(directory, &format!("load builtin:japanese builtin:math; wrap; {verb}"));
    assert!(!ok && replies[2]["error"].as_str().unwrap().contains(words), "{replies:?}");
}

/// The built-in arithmetic model with 32 positions and without an end token, so that it never ends
/// an answer.
#[test]
fn answers_end_at_the_last_position_with_a_note() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude/builtin/math");
    let to = directory.path().join("short");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "generation_config.json" {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    let file = to.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    (config["max_position_embeddings"], config["eos_token_id"]) =
        (32.into(), serde_json::Value::Null);
    fs::write(&file, config.to_string()).unwrap();
    let source = Source::open(&to.display().to_string()).unwrap();
    let prompt = ids(&source, &templated(SUM));
    let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
    let answer =
        generate(source.architecture().unwrap(), &weights, &prompt, 1000, &Device::Cpu).unwrap();
    assert_eq!(prompt.len() + answer.len(), 32);
    let dam = load([format!("a={}", to.display()), format!("b={}", to.display())])
        .unwrap()
        .wrap(Columns::default())
        .unwrap();
    let (one, all, asked) = (
        dam.generate(SUM, 1000).unwrap(),
        dam.generate_all(SUM, 1000).unwrap(),
        dam.ask(SUM, 1000).unwrap(),
    );
    assert_eq!((one.full, all.full, asked.full), (Some(32), Some(32), Some(32)));
    for text in [one.to_string(), all.to_string(), asked.to_string()] {
        assert!(text.contains("all 32 positions"), "{text}");
    }
    // An answer that ends earlier has no note.
    assert_eq!(dam.generate(SUM, 2).unwrap().full, None);
    let output = verbs(
        directory.path(),
        "load a=short b=short; wrap; generate 'What is 12 plus 7?' tokens=1000",
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("all 32 positions"), "{text}");
}
