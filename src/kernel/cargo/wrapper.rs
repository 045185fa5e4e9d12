//! A wrapper for cargo, which evcxr and rust-analyzer call instead of it.
//!
//! rust-analyzer sees only the crates whose types cells use (`known_types.rs`). Cells are built
//! with all dependencies: by rustc alone if dependencies are the same as for an earlier cell
//! (`direct.rs`), otherwise by cargo. The build is reported to the kernel (`build.rs`), and
//! dependencies that a cell adds change nothing that is already built (`lock.rs`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::answers::answer;
use super::build::run;
use super::lock::{check_build, check_dependency, preserving_lock};
use super::separate;
use super::{direct, known_types};
use crate::kernel::environment::{self, EVCXR, HOME, REAL, SOCKET, on_path, status};
use anyhow::{Context, Result};

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
    for name in ["cargo", direct::RUSTC] {
        std::os::unix::fs::symlink(std::env::current_exe()?, bin.join(name))?;
    }
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
                [] => Ok(direct::build(&arguments).unwrap_or_else(|| {
                    let mut command = cargo();
                    command.args(&arguments);
                    direct::record(&mut command, &arguments);
                    run(command)
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
            Ok(false) => metadata(&arguments, command, |text| text),
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        },
        ("metadata", false) => {
            metadata(&arguments, command, |text| match serde_json::from_str(&text) {
                Ok(all) => known_types::only(all).to_string(),
                Err(_) => text,
            })
        }
        _ => status(command.status()),
    }
}

/// Prints what `cargo metadata` answers, as `change` makes it.
fn metadata(
    arguments: &[OsString],
    mut command: Command,
    change: impl FnOnce(String) -> String,
) -> ExitCode {
    let mut ended = None;
    let answer = answer(arguments, || {
        command.stderr(std::process::Stdio::inherit());
        let output = preserving_lock(|| command.output()).ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        ended = Some(output.status);
        output.status.success().then(|| change(text))
    });
    match answer {
        Some(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        None => ended.map_or(ExitCode::FAILURE, |ended| status(Ok(ended))),
    }
}
