//! Builds dependencies that would change the build of the prelude separately, with their own copies
//! of crates, and links the cell with both.
//!
//! ```text
//! DIRECTORY/apart/         a package that depends on them, built like any other
//! DIRECTORY                the cell: cargo rustc -- --extern NAME=apart/target/.../libNAME.rlib
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::Value;

use super::build::{run, run_with_messages};
use super::lock::{cargo_metadata, extended_lock, manifest_without, package, target};

/// The directory of the separate build.
const DIRECTORY: &str = "apart";

/// Builds the cell in this directory, for which cargo was called with `arguments`, with the
/// dependency lines `separate` built separately.
///
/// # Errors
/// A build cannot start.
pub fn build(
    cargo: &dyn Fn() -> Command,
    arguments: &[OsString],
    separate: &[String],
) -> Result<ExitCode> {
    let directory = Path::new(DIRECTORY);
    fs::create_dir_all(directory)?;
    package(directory, separate, &extended_lock(directory))?;
    let target = target().context("rustc does not report its target")?;
    let artifacts: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let built = Arc::clone(&artifacts);
    let mut command = cargo();
    command.args(["build", "--target", &target, "--message-format=json"]).current_dir(directory);
    let done = run_with_messages(command, move |line| {
        if let Some((name, file)) = artifact(&line) {
            built.lock().unwrap_or_else(PoisonError::into_inner).insert(name, file);
        }
    });
    if done != ExitCode::SUCCESS {
        return Ok(done);
    }
    let artifacts = artifacts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let externs = externs(&cargo_metadata(directory, cargo)?, &artifacts);
    let manifest = fs::read_to_string("Cargo.toml")?;
    let mut command = cargo();
    command.args(arguments.iter().map(|argument| {
        if argument == "build" { OsString::from("rustc") } else { argument.clone() }
    }));
    command.arg("--").args(
        externs.iter().flat_map(|(name, file)| ["--extern".to_owned(), format!("{name}={file}")]),
    );
    for deps in [
        format!("{DIRECTORY}/target/{target}/debug/deps"),
        format!("{DIRECTORY}/target/debug/deps"),
    ] {
        command.args([
            "-L".to_owned(),
            format!("dependency={}", fs::canonicalize(&deps).unwrap_or(deps.into()).display()),
        ]);
    }
    fs::write("Cargo.toml", manifest_without(separate)?)?;
    let done = run(command);
    // evcxr rewrites the manifest if it differs from its own.
    fs::write("Cargo.toml", manifest)?;
    Ok(done)
}

/// The package in a `compiler-artifact` message of cargo, and the file to link with.
fn artifact(line: &str) -> Option<(String, String)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let kinds = message["target"]["kind"].as_array()?;
    let is_library = kinds
        .iter()
        .any(|kind| ["lib", "rlib", "dylib", "proc-macro"].iter().any(|known| kind == known));
    if message["reason"] != "compiler-artifact" || !is_library {
        return None;
    }
    let files = || message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let file = files()
        .find(|file| file.ends_with(".rlib"))
        .or_else(|| files().find(|file| !file.ends_with(".rmeta")))?;
    Some((message["package_id"].as_str()?.to_owned(), file.to_owned()))
}

/// The direct dependencies of the package, each with its file.
fn externs(all: &Value, artifacts: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let nodes = all["resolve"]["nodes"].as_array().into_iter().flatten();
    let own = nodes.filter(|node| {
        all["workspace_members"].as_array().is_some_and(|own| own.contains(&node["id"]))
    });
    let deps = own.flat_map(|node| node["deps"].as_array().into_iter().flatten());
    deps.filter_map(|dep| {
        Some((dep["name"].as_str()?.to_owned(), artifacts.get(dep["pkg"].as_str()?)?.clone()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn direct_dependencies_are_linked_by_crate_name() {
        let message = json!({"reason": "compiler-artifact", "package_id": "rust-ini 1", "target": {"kind": ["lib"], "name": "ini"},
                             "filenames": ["/a/libini.rlib", "/a/libini.rmeta"]});
        let (package, file) = artifact(&message.to_string()).unwrap();
        let artifacts = BTreeMap::from([(package, file)]);
        let all = json!({"workspace_members": ["ctx"], "resolve": {"nodes": [
            {"id": "ctx", "deps": [{"name": "ini", "pkg": "rust-ini 1"}, {"name": "gone", "pkg": "gone 1"}]},
            {"id": "rust-ini 1", "deps": []},
        ]}});
        assert_eq!(externs(&all, &artifacts), [("ini".to_owned(), "/a/libini.rlib".to_owned())]);
        assert_eq!(artifact("{\"reason\": \"build-finished\"}"), None);
    }
}
