//! Shared helpers of whole-program tests: golden checkpoints to modify, and the program to run.
#![allow(dead_code)]

#[cfg(feature = "jupyter")]
pub mod jupyter;
#[cfg(unix)]
pub mod terminal;
pub mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A path in the test data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A path in the golden data.
pub fn golden(name: &str) -> PathBuf {
    data("golden").join(name)
}

/// A writable copy of a golden checkpoint at `to`.
pub fn copy_checkpoint(name: &str, to: &Path) {
    copy_files(&golden(name), to);
}

/// A writable copy of the built-in model `name` at `to`.
pub fn copy_builtin(name: &str, to: &Path) {
    copy_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude/builtin").join(name), to);
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        std::fs::write(to.join(from.file_name().unwrap()), std::fs::read(&from).unwrap()).unwrap();
    }
}

/// The names in `directory`, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The content of every file under `directory`, by relative path.
pub fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path)
            } else {
                drop(found.insert(
                    path.strip_prefix(directory).unwrap().into(),
                    std::fs::read(&path).unwrap(),
                ))
            }
        }
    }
    found
}

/// A saved session with its JSON modified and without its checksum, in the format of earlier
/// versions.
pub fn resaved(
    session: &[u8],
    change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> Vec<u8> {
    let length = u64::from_le_bytes(session[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&session[8..8 + length]).unwrap();
    let mut saved: serde_json::Map<_, _> =
        serde_json::from_str(header["__metadata__"]["dam"].as_str().unwrap()).unwrap();
    saved.remove("checksum").unwrap();
    change(&mut saved);
    header["__metadata__"]["dam"] = serde_json::Value::Object(saved).to_string().into();
    let mut text = header.to_string();
    text += &" ".repeat((8 - text.len() % 8) % 8);
    [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &session[8 + length..]].concat()
}

/// The `dam` program in `directory`.
pub fn dam(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dam"));
    command.current_dir(directory).stdin(std::process::Stdio::null());
    command
}

/// The output of `dam -c VERBS`.
pub fn verbs(directory: &Path, verbs: &str) -> Output {
    dam(directory).args(["-c", verbs]).output().unwrap()
}

/// The JSON replies of `dam --json -c VERBS`, and whether it succeeded.
pub fn json(directory: &Path, verbs: &str) -> (Vec<serde_json::Value>, bool) {
    let output = dam(directory).args(["--json", "-c", verbs]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        output.status.success(),
    )
}
