//! Tests of the whole program: JSON replies, scripts, exit statuses, Ctrl-C, and the tour.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use crate::common::{dam, golden, json, verbs};
use serde_json::Value;

const GOLDEN: &str = "load base=base m0=model0 m1=model1 m2=model2; data m0=data0.jsonl m1=data1.jsonl m2=data2.jsonl; \
                      set batch_size=2 shuffle=off lr=1e-2 clip=0 l1=1e-6 l2=1e-6; wrap columns";

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The verbs of `shared/golden/README.md` reproduce its numbers.
#[test]
fn golden_verbs_give_golden_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let (replies, ok) =
        json(&golden(""), &format!("{GOLDEN}; loss; step 5; loss; bake {}", out.display()));
    assert!(ok, "{replies:?}");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap();
    let losses = expected["uniform"]["adamw_losses"].as_array().unwrap();
    let losses: Vec<f64> = losses.iter().map(|x| x.as_f64().unwrap()).collect();
    let total = |reply: &Value| reply["total"].as_f64().unwrap();
    assert!((total(&replies[4]) - losses[0]).abs() < 1e-5 * losses[0]);
    assert!((total(&replies[5]) - losses[4]).abs() < 1e-5 * losses[4]);
    assert!((total(&replies[6]) - losses[5]).abs() < 1e-5 * losses[5]);
}

#[test]
fn replies_have_the_documented_fields() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let save = dir.path().join("session");
    let line = format!(
        "{GOLDEN}; loss; step; train 2; inspect model.norm.weight; eval; eval --all; bake {}; save {}; open {}; help; quit",
        out.display(),
        save.display(),
        save.display()
    );
    let (replies, ok) = json(&golden(""), &line);
    assert!(ok, "{replies:?}");
    let reply = |verb: &str| {
        replies.iter().find(|r| r["verb"] == verb).unwrap_or_else(|| panic!("no reply of {verb}"))
    };
    for (verb, fields) in [
        ("load", &["sources"][..]),
        ("wrap", &["tensors", "coefficients"]),
        ("loss", &["total", "terms"]),
        ("step", &["step", "total", "grad_norm"]),
        ("train", &["steps", "first", "last"]),
        ("inspect", &["tensors"]),
        ("eval", &["scores"]),
        ("bake", &["path", "files", "bytes"]),
        ("save", &["path", "bytes"]),
    ] {
        let found = keys(reply(verb));
        for field in ["verb", "seconds"].iter().chain(fields) {
            assert!(found.contains(field), "{verb} has {found:?}, not {field}");
        }
    }
    let source = &reply("load")["sources"][1];
    for field in ["name", "path", "architecture", "parameters", "dtype", "bytes"] {
        assert!(keys(source).contains(&field), "{source}");
    }
    assert_eq!(
        (&source["name"], &source["architecture"], &source["dtype"]),
        (&"m0".into(), &"llama".into(), &"f32".into())
    );
    let mut terms = keys(&reply("loss")["terms"]);
    terms.sort_unstable();
    assert_eq!(terms, ["cosine", "kl.m0", "kl.m1", "kl.m2", "l1", "l2"]);
    let tensor = &reply("inspect")["tensors"][0];
    assert_eq!(tensor["name"], "model.norm.weight");
    let mut stats = keys(&tensor["sources"]["m2"]);
    stats.sort_unstable();
    assert_eq!(stats, ["max", "mean", "min", "std"]);
    let score = &reply("eval")["scores"]["m1"];
    for field in ["tokens", "loss", "perplexity", "exact_match"] {
        assert!(keys(score).contains(&field), "{score}");
    }
}

#[test]
fn an_error_in_json_ends_a_script_with_status_1() {
    let (replies, ok) = json(&golden(""), "load m0=model0 m1=nowhere; wrap");
    assert!(!ok);
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0]["verb"], "load");
    assert!(
        replies[0]["error"].as_str().unwrap().contains("nowhere") && replies[0]["hint"].is_string()
    );
}

#[test]
fn a_failed_load_keeps_the_session() {
    let mut child = dam(&golden(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "load m0=model0 m1=model1\nload m2=nowhere\nwrap\n";
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // Input that is not a terminal is a script, which ends at the first error.
    assert_eq!(output.status.code(), Some(1));
    assert!(!String::from_utf8(output.stdout).unwrap().contains("trainable"));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .starts_with("error: no such file or directory `nowhere`")
    );
}

#[test]
fn a_script_file_runs_like_verbs_on_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("merge.dam");
    std::fs::write(&file, format!("# a comment\n{}\nloss # another\n", GOLDEN.replace(';', "\n")))
        .unwrap();
    let run = dam(&golden("")).arg("run").arg(&file).output().unwrap();
    assert!(run.status.success());
    // Free memory and speed vary between runs.
    let steady = |stdout: Vec<u8>| {
        let text = String::from_utf8(stdout).unwrap();
        text.lines()
            .filter(|l| !l.starts_with("memory:") && !l.starts_with("training:"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(steady(run.stdout), steady(verbs(&golden(""), &format!("{GOLDEN}; loss")).stdout));
    let missing = dam(&golden("")).args(["run", "no.dam"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("`no.dam`"));
}

/// Ctrl-C ends training after the last complete step, and ends the script: the rest does not run,
/// and the exit status is 130.
#[test]
#[cfg(unix)]
fn an_interrupt_ends_the_script_and_keeps_the_training() {
    let line = format!("{GOLDEN}; set batch_size=1; step; train 1000000; loss; bake half");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dam"));
    command
        .current_dir(golden(""))
        .args(["--json", "-c", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    while next()["verb"] != "step" {}
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success()
    );
    let train = next();
    assert_eq!(train["verb"], "train", "{train}");
    let steps = train["steps"].as_u64().unwrap();
    assert!(steps > 0 && steps < 1_000_000);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(lines.next().is_none() && !golden("half").exists());
}

/// Verbs are in the manual page and among what shells suggest after `-c`.
#[test]
fn the_manual_page_and_completions_have_every_verb() {
    let text = |arguments: &[&str]| {
        let output = dam(&golden("")).args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let page = text(&["man"]).replace("\\-", "-").replace("\\*(Aq", "'");
    for verb in dam_prelude::verbs::VERBS {
        assert!(page.contains(verb.about), "{}", verb.name);
    }
    assert!(page.contains("dam tour") && !page.contains("dam-run"), "{page}");
    for shell in ["bash", "zsh", "fish"] {
        let all = text(&["completions", shell]);
        for verb in dam_prelude::verbs::VERBS {
            assert!(all.contains(verb.name), "{shell}: {}", verb.name);
        }
    }
}

/// Completions and the manual page succeed even if nothing reads them.
#[test]
fn a_closed_pipe_is_not_an_error() {
    for arguments in [&["completions", "zsh"][..], &["completions", "bash"], &["man"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = dam(&golden(""))
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !errors.contains("panicked"), "{arguments:?}: {errors}");
        assert_eq!(
            errors.matches("standard output is closed").count(),
            1,
            "{arguments:?}: {errors}"
        );
    }
}

/// Of two programs that save to the same file at the same time, one succeeds and the other reports
/// that the file exists.
#[test]
fn one_of_two_concurrent_saves_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let line = format!("load builtin:math builtin:sql; wrap; save {round}.dam");
        let start = || {
            dam(dir.path()).args(["--json", "-c", &line]).stdout(Stdio::piped()).spawn().unwrap()
        };
        let ends = [start(), start()].map(|child| child.wait_with_output().unwrap());
        let outputs = ends.each_ref().map(|end| String::from_utf8_lossy(&end.stdout).into_owned());
        let mut codes = ends.each_ref().map(|end| end.status.code());
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(1)], "{outputs:?}");
        let lost = outputs
            .iter()
            .zip(&ends)
            .find(|(_, end)| !end.status.success())
            .map(|(output, _)| output)
            .unwrap();
        assert!(lost.contains(&format!("{round}.dam")) && lost.contains("exists"), "{lost}");
        let (replies, ok) = json(dir.path(), &format!("open {round}.dam"));
        assert!(ok, "{replies:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[test]
fn help_covers_verbs_and_topics() {
    let help = dam(&golden("")).arg("--help").output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    for word in ["tour", "run", "-c", "--json"] {
        assert!(text.contains(word), "{text}");
    }
    let help = String::from_utf8(verbs(&golden(""), "help; help train").stdout).unwrap();
    for verb in
        "load data wrap set loss step train inspect plot eval generate ask bake save open help quit"
            .split(' ')
    {
        assert!(help.lines().any(|line| line.starts_with(verb)), "{verb}: {help}");
    }
    assert!(help.contains("example: train"));
    // Help covers topics too, and an unknown word suggests the nearest topic.
    let help = String::from_utf8(verbs(&golden(""), "help penalties; help data").stdout).unwrap();
    for part in ["cosine=0.01 ", "example: set cosine", "data NAME=FILE", "example: data"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    let (replies, ok) = json(&golden(""), "help penalty");
    assert!(!ok && replies[0]["hint"].as_str().unwrap().contains("`penalties`"), "{replies:?}");
}

/// A complete run: DAM clearly beats the average, each specialist has its own skill and not the
/// others', and the merge can be loaded.
#[test]
fn the_tour_ends_with_a_merge_that_beats_the_average() {
    let dir = tempfile::tempdir().unwrap();
    let mut child =
        dam(dir.path()).args(["--json", "tour"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    let replies: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let order: Vec<&str> = replies.iter().map(|r| r["verb"].as_str().unwrap()).collect();
    assert_eq!(order, ["load", "wrap", "set", "loss", "set", "train", "inspect", "eval", "bake"]);

    let rows = replies[7]["rows"].as_array().unwrap();
    let exact = |row: &str, data: &str| {
        let row = rows.iter().find(|r| r["model"] == row).unwrap_or_else(|| panic!("no row {row}"));
        row["scores"][data]["exact_match"].as_f64().unwrap_or_else(|| panic!("no {data} in {row}"))
    };
    let skills = ["japanese", "math", "sql"];
    for source in skills {
        for data in skills {
            let score = exact(source, data);
            assert!(
                if source == data { score >= 0.9 } else { score <= 0.5 },
                "{source} on {data}: {score}"
            );
        }
    }
    let mean = |row| {
        ["japanese", "math", "sql", "japanese-math"].iter().map(|d| exact(row, d)).sum::<f64>()
            / 4.0
    };
    assert!(
        mean("DAM") >= mean("average") + 0.1,
        "DAM {} average {}",
        mean("DAM"),
        mean("average")
    );

    let (replies, ok) = json(dir.path(), "load merged");
    assert!(ok, "{replies:?}");
    // A second tour does not overwrite the first without --force.
    let again = dam(dir.path()).arg("tour").output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("--force"));
}

/// The model card names the sources and the evaluation data, but no local paths.
#[test]
fn the_model_card_names_sources_and_data_without_paths() {
    let dir = tempfile::tempdir().unwrap();
    let card = |line: String| {
        let out = dir.path().join("out");
        let (replies, ok) =
            json(&golden(""), &format!("{GOLDEN}; {line}; bake {} --force", out.display()));
        assert!(ok, "{replies:?}");
        std::fs::read_to_string(out.join("README.md")).unwrap()
    };
    let untrained = card("eval".into());
    assert!(
        untrained.contains("Not trained") && untrained.contains("On the training data"),
        "{untrained}"
    );
    let other = dir.path().join("other.jsonl");
    std::fs::write(&other, "{\"input_ids\": [1, 2, 3]}\n").unwrap();
    let trained = card(format!("step 2; eval {}", other.display()));
    assert!(
        trained.contains("On held-out data")
            && trained.contains("| other |")
            && !trained.contains("Not trained"),
        "{trained}"
    );
    assert!(trained.contains("- `base`: `base`, no data (the base; not merged)"), "{trained}");
    assert!(!trained.contains(env!("CARGO_MANIFEST_DIR")), "{trained}");
    // Naming a training file in `eval` does not make it held-out data.
    assert!(card("step 2; eval data0.jsonl".into()).contains("On the training data"));
}

/// The table of verbs in the guide matches the program; `DAM_README=update` writes it.
#[test]
fn the_guide_has_the_current_table_of_verbs() {
    let (begin, end) = ("<!-- verbs -->\n", "<!-- /verbs -->");
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude/guide/verbs.md");
    let readme = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = readme.split_once(begin).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    let reference = dam_prelude::verbs::reference();
    if std::env::var_os("DAM_README").is_some_and(|what| what == "update") {
        std::fs::write(&file, format!("{before}{begin}{reference}{end}{after}")).unwrap();
    } else {
        assert!(table == reference, "run with DAM_README=update; the table is\n{reference}");
    }
    for topic in dam_prelude::verbs::TOPICS {
        assert!(before.contains(&format!("`{}`", topic.name)), "{}", topic.name);
    }
}
