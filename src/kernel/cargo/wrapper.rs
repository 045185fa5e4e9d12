//! A wrapper for cargo, which evcxr and rust-analyzer call instead of it.
//!
//! evcxr uses rust-analyzer to find the types of variables. What cells use of the prelude consists
//! of its own types and those of candle and the standard library; but rust-analyzer would first
//! read the source of all two hundred dependencies, and the first cell would wait for that. So the
//! wrapper reports only those few crates to rust-analyzer. Cells are built by cargo itself with all
//! dependencies: the build is reported to the kernel (`build.rs`), and dependencies that a cell
//! adds change nothing that is already built (`lock.rs`).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use serde_json::Value;

use super::build::run;
use super::lock::{check_build, check_dependency, preserving_lock};
use super::separate;
use crate::kernel::environment::{self, EVCXR, HOME, REAL, SOCKET, on_path, status};

/// The packages whose types cells use, beside those a notebook adds with `:dep`.
const KNOWN: [&str; 3] = ["dam-prelude", "candle-core", "half"];

/// Whether this process was started as the wrapper.
pub fn is_cargo() -> bool {
    std::env::var_os(REAL).is_some()
        && std::env::args_os()
            .next()
            .is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new("cargo")))
}

/// The directories, below that of [`install_wrapper`], where the wrapper is found: rust-analyzer
/// looks in `CARGO_HOME` first, evcxr asks rustup.
const HOME_BIN: &str = "home/bin";
const RUSTUP_BIN: &str = "rustup";

/// Creates the wrapper in `directory` for rust-analyzer and evcxr in this process. It reports
/// builds to `socket`.
///
/// # Errors
/// There is no compiler, or the directory is not writable.
pub fn install_wrapper(directory: &Path, socket: &Path) -> Result<()> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("there is no Rust compiler: install Rust from rustup.rs")?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    // The tool itself, not rustup's proxy, which looks it up at every call.
    let tool = |name: &str| {
        let own = Some(sysroot.join("bin").join(name)).filter(|path| path.is_file());
        own.or_else(|| on_path(name))
            .with_context(|| format!("there is no {name}: install Rust from rustup.rs"))
    };
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => home.into(),
        None => dirs::home_dir().context("no home directory: set HOME")?.join(".cargo"),
    };
    let (bin, rustup) = (directory.join(HOME_BIN), directory.join(RUSTUP_BIN));
    std::fs::create_dir_all(&bin)?;
    std::fs::create_dir_all(&rustup)?;
    std::os::unix::fs::symlink(std::env::current_exe()?, bin.join("cargo"))?;
    std::os::unix::fs::symlink(tool("rustc")?, bin.join("rustc"))?;
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    let script = format!("#!/bin/sh\n[ \"$1\" = which ] && echo {}/\"$2\"\n", quoted(&bin));
    std::fs::write(rustup.join("rustup"), script)?;
    std::fs::set_permissions(
        rustup.join("rustup"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    environment::set(REAL, tool("cargo")?);
    environment::set(HOME, home);
    environment::set("CARGO_HOME", directory.join("home"));
    environment::set(SOCKET, socket);
    Ok(())
}

/// Runs `start` with the wrapper first on `PATH`, if there is one.
pub fn with_wrapper_on_path<T>(start: impl FnOnce() -> T) -> T {
    let Some(home) = std::env::var_os("CARGO_HOME").filter(|_| std::env::var_os(REAL).is_some())
    else {
        return start();
    };
    let before = std::env::var_os("PATH").unwrap_or_default();
    let rustup = Path::new(&home).with_file_name(RUSTUP_BIN);
    let path = std::env::join_paths(std::iter::once(rustup).chain(std::env::split_paths(&before)));
    environment::set("PATH", path.as_deref().unwrap_or(&before));
    let done = start();
    environment::set("PATH", &before);
    done
}

/// Runs cargo for evcxr and rust-analyzer.
pub fn cargo() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some(real) = std::env::var_os(REAL) else { return ExitCode::FAILURE };
    let cargo = || {
        let mut command = Command::new(&real);
        if let Some(home) = std::env::var_os(HOME) {
            command.env("CARGO_HOME", home);
        }
        command
    };
    let mut command = cargo();
    command.args(&arguments);
    // Cargo's global options come before the subcommand.
    let what = arguments
        .iter()
        .find_map(|argument| argument.to_str().filter(|text| !text.starts_with('-')))
        .unwrap_or("");
    match (what, std::env::var_os(EVCXR).is_some()) {
        ("build" | "check", true) => {
            // `check` becomes `build`: everything a build needs is cached, nothing for a check is.
            let arguments: Vec<OsString> = arguments
                .iter()
                .map(|a| if a == "check" { "build".into() } else { a.clone() })
                .collect();
            let done = check_build(&cargo).and_then(|separate| match separate[..] {
                [] => Ok(run({
                    let mut command = cargo();
                    command.args(&arguments);
                    command
                })),
                _ => separate::build(&cargo, &arguments, &separate),
            });
            done.unwrap_or_else(|error| {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            })
        }
        ("metadata", true) => match check_dependency(&cargo) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => status(preserving_lock(|| command.status())),
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        },
        ("metadata", false) => {
            command.stderr(std::process::Stdio::inherit());
            let Ok(output) = preserving_lock(|| command.output()) else {
                return ExitCode::FAILURE;
            };
            match serde_json::from_slice(&output.stdout) {
                Ok(all) => println!("{}", without_prelude_dependencies(all)),
                Err(_) => print!("{}", String::from_utf8_lossy(&output.stdout)),
            }
            status(Ok(output.status))
        }
        _ => status(command.status()),
    }
}

/// The metadata of a workspace without the dependencies of the prelude, except the known packages.
fn without_prelude_dependencies(mut all: Value) -> Value {
    let name = |package: &Value| package["name"].as_str().unwrap_or_default().to_owned();
    let is_prelude = |package: &Value| name(package) == KNOWN[0];
    let packages = all["packages"].as_array().cloned().unwrap_or_default();
    let Some(prelude) = packages.iter().find(|p| is_prelude(p)).map(|p| p["id"].clone()) else {
        return all;
    };
    let known =
        |id: &Value| packages.iter().any(|p| p["id"] == *id && KNOWN.contains(&name(p).as_str()));
    let nodes = all["resolve"]["nodes"].as_array().cloned().unwrap_or_default();
    // Everything reachable without passing through a known package.
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut waiting: Vec<Value> = all["workspace_members"].as_array().cloned().unwrap_or_default();
    waiting.push(prelude);
    let mut nodes_kept = Vec::new();
    while let Some(id) = waiting.pop() {
        let Some(node) = nodes.iter().find(|node| node["id"] == id) else { continue };
        if !kept.insert(id.to_string()) {
            continue;
        }
        let mut node = node.clone();
        if known(&id) {
            let is_known = |dep: &Value| known(&dep["pkg"]);
            let deps: Vec<Value> = node["deps"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|d| is_known(d))
                .cloned()
                .collect();
            node["dependencies"] = deps.iter().map(|dep| dep["pkg"].clone()).collect();
            node["deps"] = deps.into();
        }
        waiting.extend(node["deps"].as_array().into_iter().flatten().map(|dep| dep["pkg"].clone()));
        nodes_kept.push(node);
    }
    let package_kept = |package: &&Value| kept.contains(&package["id"].to_string());
    all["packages"] = packages.iter().filter(package_kept).cloned().collect();
    all["resolve"]["nodes"] = nodes_kept.into();
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::without_prelude_dependencies;

    #[test]
    fn only_dependencies_of_the_prelude_are_left_out() {
        let package = |name: &str| json!({"id": name, "name": name});
        let node = |id: &str, deps: &[&str]| {
            let deps: Vec<_> = deps.iter().map(|dep| json!({"name": dep, "pkg": dep})).collect();
            json!({"id": id, "deps": deps, "dependencies": []})
        };
        let packages =
            ["ctx", "dam-prelude", "candle-core", "gemm", "regex", "memchr"].map(package);
        let all = json!({
            "packages": packages,
            "workspace_members": ["ctx"],
            "resolve": {"nodes": [
                node("ctx", &["dam-prelude", "regex"]), node("dam-prelude", &["candle-core", "gemm"]),
                node("candle-core", &["gemm"]), node("gemm", &[]), node("regex", &["memchr"]), node("memchr", &[]),
            ]},
        });
        let few = without_prelude_dependencies(all);
        let names: Vec<_> = few["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["ctx", "dam-prelude", "candle-core", "regex", "memchr"]);
        let nodes = few["resolve"]["nodes"].as_array().unwrap();
        let prelude = nodes.iter().find(|node| node["id"] == "dam-prelude").unwrap();
        assert_eq!(prelude["dependencies"], json!(["candle-core"]));
    }
}
