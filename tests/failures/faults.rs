//! Whichever call fails that writes or changes a file, as on a full or broken disk, nothing is
//! lost: the old or the new content is there, and the failure is reported. A preloaded library
//! fails the calls one after another, each in a run of its own.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::terminal::Terminal;
use crate::common::{dam, files, golden};

/// `ENOSPC` and `EIO`.
const ERRORS: [(i32, &str); 2] = [(28, "No space left"), (5, "Input/output error")];

/// Compiles the library into `directory`.
fn library(directory: &Path) -> PathBuf {
    let (from, to) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/preload.rs"),
        directory.join("libfaults.so"),
    );
    let built = Command::new("rustc")
        .args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-o"])
        .arg(&to)
        .arg(from)
        .output()
        .expect("rustc is on the path");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    to
}

/// A run in which call `number` fails with `error`.
struct Run {
    output: Output,
    /// Whether the fault occurred.
    happened: bool,
}

fn run(library: &Path, directory: &Path, verbs: &str, number: usize, error: i32) -> Run {
    let log = directory.with_extension("log");
    let _ = fs::remove_file(&log);
    let output = dam(directory)
        .args(["-c", verbs])
        .env("LD_PRELOAD", library)
        .env("DAM_FAULT", number.to_string())
        .env("DAM_FAULT_ERROR", error.to_string())
        .env("DAM_FAULT_LOG", &log)
        .output()
        .unwrap();
    let log =
        fs::read_to_string(log).unwrap_or_else(|_| panic!("no calls were counted: {output:?}"));
    Run { output, happened: log.starts_with("fault") }
}

/// Runs `verbs`, which write `out`, once per call with that call failing; returns the number of
/// calls.
fn each_fault(library: &Path, verbs: &str, out: &str) -> usize {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("work");
    fs::create_dir(&directory).unwrap();
    let load = format!(
        "load base={} a={} b={}; data a={} b={}; wrap; ",
        golden("base").display(),
        golden("model0").display(),
        golden("model1").display(),
        golden("data0.jsonl").display(),
        golden("data1.jsonl").display()
    );
    let verbs = |first: &str| format!("{load}{first}{verbs}");
    let good = |first: &str| {
        let output = dam(&directory).args(["-c", &verbs(first)]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        files(&directory)
    };
    let new = good("step; ");
    let old = good("");
    assert!(old != new && !new.is_empty());
    let mut number = 0;
    loop {
        number += 1;
        for (error, words) in ERRORS {
            let run = run(library, &directory, &verbs("step; "), number, error);
            let (found, text) =
                (files(&directory), String::from_utf8_lossy(&run.output.stderr).into_owned());
            if !run.happened {
                assert!(
                    run.output.status.success() && found == new,
                    "{out}: without a fault: {text}"
                );
                return number - 1;
            }
            // A fault during cleanup does not fail the run; any other is reported with its cause
            // and a hint.
            if run.output.status.success() {
                assert!(found == new, "{out}, fault {number}: it reported success")
            } else {
                assert!(
                    text.contains(words) && text.contains("hint:") && !text.contains("panicked"),
                    "fault {number}: {text}"
                );
                let without: BTreeMap<_, _> = found
                    .iter()
                    .filter(|(path, _)| !path.to_string_lossy().contains(".dam-"))
                    .map(|(p, b)| (p.clone(), b.clone()))
                    .collect();
                assert!(
                    without == old || without == new,
                    "{out}, fault {number}: neither the old nor the new content"
                );
            }
            assert_eq!(good(""), old, "{out}, fault {number}: the next run leaves a file behind");
        }
    }
}

#[test]
fn failed_writes_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let library = library(directory.path());
    let mut faults = 0;
    for (verbs, out) in [
        ("bake out --force", "bake"),
        ("bake out shard=50KB --force", "bake in shards"),
        ("bake out.gguf --force", "bake to GGUF"),
        ("bake out as=adapter rank=2 --force", "bake as an adapter"),
        ("save out.dam --force", "save"),
        ("export out.ipynb --force", "export"),
        ("plot coefficients out.svg", "plot"),
        ("plot coefficients out.png", "plot as PNG"),
    ] {
        let count = each_fault(&library, verbs, out);
        println!("{out}: {count} calls, each failed in {} ways", ERRORS.len());
        assert!(count >= 3, "{out}: {count}");
        faults += count * ERRORS.len();
    }
    assert!(faults >= 100, "{faults}");
}

/// A session whose state cannot be written says so and continues.
#[test]
fn a_session_continues_if_autosave_fails() {
    let directory = tempfile::tempdir().unwrap();
    let library = library(directory.path());
    for number in (1..60).step_by(3) {
        let home = tempfile::tempdir().unwrap();
        let mut command = crate::common::terminal::dam(home.path());
        command
            .env("LD_PRELOAD", &library)
            .env("DAM_FAULT", number.to_string())
            .env("DAM_FAULT_ERROR", "28");
        let mut dam = Terminal::start(command, 30, 100);
        dam.wait_for("dam>");
        dam.line("load builtin:japanese builtin:math; wrap; step");
        dam.wait_for_prompt("step 1");
        dam.line("train 3; undo; redo; bake out");
        dam.wait_for("other files copied");
        dam.line("quit");
        assert!(dam.end().success(), "fault {number}");
        assert!(home.path().join("out/model.safetensors").is_file());
    }
}
