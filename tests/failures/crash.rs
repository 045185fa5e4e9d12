//! A program killed at any moment loses nothing: its output is either the old or the new version,
//! and the next run continues. About 60 kills here; `DAM_CRASH_KILLS=N` makes N, and
//! `DAM_CRASH_SEED` chooses other moments.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::terminal::Terminal;
use crate::common::{dam, files, golden};
use crate::server::Server;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The number of kills per test.
fn kills() -> usize {
    const KINDS: usize = 6;
    std::env::var("DAM_CRASH_KILLS").map_or(10, |n| n.parse::<usize>().unwrap().div_ceil(KINDS))
}

/// Random moments to kill at, each within the duration of the whole run.
struct KillTimes(ChaCha8Rng);

impl KillTimes {
    fn new(kind: u64) -> Self {
        let seed = std::env::var("DAM_CRASH_SEED").map_or(0, |n| n.parse::<u64>().unwrap());
        Self(ChaCha8Rng::seed_from_u64(seed * 100 + kind))
    }

    fn below(&mut self, whole: Duration) -> Duration {
        whole.mul_f64(self.0.random_range(0.0..1.0))
    }
}

/// The content of `path`: its bytes, or those of every file in it.
fn content(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    if path.is_dir() {
        files(path)
    } else {
        BTreeMap::from([(PathBuf::new(), fs::read(path).unwrap())])
    }
}

/// Kills `command` after `time`; returns whether it had ended before.
fn kill(mut command: Command, time: Duration) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap().success()
}

fn run(directory: &Path, verbs: &str) {
    let output = dam(directory).args(["-c", verbs]).output().unwrap();
    assert!(output.status.success(), "{verbs}: {output:?}");
}

const BEGIN: &str = "load base=BASE a=MODEL0 b=MODEL1; data a=DATA0 b=DATA1; wrap";

/// `verbs` write `out` in two versions. Whenever they are killed, it is one of the two, and no
/// other file is left.
fn always_one_of_two(kind: u64, verbs: [&str; 2], out: &str) {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| golden(name).display().to_string();
    let both = verbs.map(|verbs| {
        let all = [
            ("BASE", "base"),
            ("MODEL0", "model0"),
            ("MODEL1", "model1"),
            ("DATA0", "data0.jsonl"),
            ("DATA1", "data1.jsonl"),
        ];
        all.iter().fold(verbs.replace("BEGIN", BEGIN), |verbs, (name, file)| {
            verbs.replace(name, &place(file))
        })
    });
    let out_path = directory.path().join(out);
    let mut whole = Duration::ZERO;
    let results = both.clone().map(|verbs| {
        let begin = Instant::now();
        run(directory.path(), &verbs);
        whole = begin.elapsed();
        content(&out_path)
    });
    assert!(results[0] != results[1], "both versions are the same");
    let (mut kill_times, mut ended) = (KillTimes::new(kind), 0);
    for i in 0..kills() {
        let mut command = dam(directory.path());
        command.args(["-c", &both[i % 2]]);
        ended += usize::from(kill(command, kill_times.below(whole)));
        assert!(
            results.contains(&content(&out_path)),
            "{out} is neither, after kill {i} of {}",
            both[i % 2]
        );
    }
    assert!(ended < kills(), "every run ended before its kill");
    // The next run cleans up.
    run(directory.path(), &both[0]);
    assert_eq!(content(&out_path), results[0]);
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [out], "a file was left behind");
}

#[test]
fn bake_survives_kills() {
    always_one_of_two(0, ["BEGIN; bake out --force", "BEGIN; train 3; bake out --force"], "out");
}

#[test]
fn merge_survives_kills() {
    let begin = "load base=BASE a=MODEL0 b=MODEL1; merge linear weight=";
    always_one_of_two(
        1,
        [&format!("{begin}0.5,0.5 out --force"), &format!("{begin}0.25,0.75 out --force")],
        "out",
    );
}

#[test]
fn save_survives_kills() {
    always_one_of_two(2, ["BEGIN; save s.dam --force", "BEGIN; step; save s.dam --force"], "s.dam");
}

#[test]
fn export_survives_kills() {
    always_one_of_two(
        3,
        ["BEGIN; export x.dam --force", "BEGIN; step; export x.dam --force"],
        "x.dam",
    );
}

/// Every named file in the cache is complete, and the next run downloads only the rest.
#[test]
fn download_survives_kills() {
    let repository: BTreeMap<String, Vec<u8>> = files(&golden("model0"))
        .into_iter()
        .map(|(path, bytes)| (path.display().to_string(), bytes))
        .collect();
    let server = Server::start(repository.clone());
    let program = |home: &Path| crate::server::program(home, &server.endpoint, "load org/name");
    let first = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    assert!(program(first.path()).output().unwrap().status.success());
    let (whole, mut kill_times, mut ended) = (begin.elapsed(), KillTimes::new(4), 0);
    for i in 0..kills() {
        let home = tempfile::tempdir().unwrap();
        // Killed twice: the second run resumes the first.
        for _ in 0..2 {
            ended += usize::from(kill(program(home.path()), kill_times.below(whole)));
            let cache = home.path().join("hub");
            for (path, bytes) in if cache.is_dir() { files(&cache) } else { BTreeMap::new() } {
                let is_named = path.parent().is_some_and(|p| p.ends_with("blobs"))
                    && path.extension().is_none();
                assert!(
                    !is_named || repository.values().any(|whole| *whole == bytes),
                    "{path:?} is incomplete after kill {i}"
                );
            }
        }
        let output = program(home.path()).output().unwrap();
        assert!(output.status.success(), "after kill {i}: {output:?}");
    }
    assert!(ended < 2 * kills(), "every run ended before its kill");
}

/// The step in the last prompt on the screen.
fn step(terminal: &Terminal) -> usize {
    let screen = terminal.screen();
    let step = screen.rsplit("step ").find_map(|rest| rest.split([' ', ':']).next()?.parse().ok());
    step.unwrap_or_else(|| panic!("no step: {screen}"))
}

/// Whatever the prompt was doing, the earlier work is offered and can be resumed.
#[test]
fn prompt_survives_kills() {
    let mut kill_times = KillTimes::new(5);
    for i in 0..kills() {
        let home = tempfile::tempdir().unwrap();
        let mut dam = Terminal::dam(home.path());
        dam.line("load builtin:japanese builtin:math; wrap; set batch_size=1");
        dam.wait_for_prompt("step 0");
        dam.line("step; step");
        dam.wait_for_prompt("step 2");
        // It is killed while it saves a step, a setting, or training in progress.
        dam.line(
            [
                "step; step; step; step",
                "train 100000",
                "set lr=1e-3; set lr=1e-2; undo; undo; redo; redo",
            ][i % 3],
        );
        std::thread::sleep(kill_times.below(Duration::from_millis(1500)));
        dam.kill();
        let mut dam = Terminal::start(crate::common::terminal::dam(home.path()), 30, 100);
        dam.wait_for("resume it?");
        dam.line("y");
        dam.wait_for_prompt("step ");
        assert!(step(&dam) >= 2, "after kill {i}: {}", dam.screen());
        let before = step(&dam);
        dam.line("step");
        dam.wait_for_prompt(&format!("step {}", before + 1));
        dam.line("undo 2; history");
        dam.wait_for("load builtin:japanese");
        dam.line("quit");
        dam.wait_for("quit anyway?");
        dam.line("y");
        assert!(dam.end().success());
    }
}
