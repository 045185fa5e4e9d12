//! What whole-program tests share: golden checkpoints to damage, and the program to run.
#![allow(dead_code)]

#[cfg(feature = "jupyter")]
pub mod jupyter;
#[cfg(unix)]
pub mod terminal;
pub mod text;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file or folder of the tests' data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A file or folder of the golden data.
pub fn golden(name: &str) -> PathBuf {
    data("golden").join(name)
}

/// A writable copy of a golden checkpoint at `to`.
pub fn copy_checkpoint(name: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let from = entry.unwrap().path();
        std::fs::write(to.join(from.file_name().unwrap()), std::fs::read(&from).unwrap()).unwrap();
    }
}

/// The `dam` program in `directory`.
pub fn dam(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dam"));
    command.current_dir(directory).stdin(std::process::Stdio::null());
    command
}

/// What `dam -c VERBS` prints and returns.
pub fn verbs(directory: &Path, verbs: &str) -> Output {
    dam(directory).args(["-c", verbs]).output().unwrap()
}

/// The JSON lines of `dam --json -c VERBS`, and whether it succeeded.
pub fn json(directory: &Path, verbs: &str) -> (Vec<serde_json::Value>, bool) {
    let output = dam(directory).args(["--json", "-c", verbs]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), output.status.success())
}
