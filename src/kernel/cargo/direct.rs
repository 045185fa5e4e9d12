//! Builds a cell by calling rustc as cargo did for an earlier cell with the same dependencies:
//! cargo takes as long as rustc to find that none of two hundred crates has changed.
//!
//! ```text
//! .dam-calls/KEY    a call of rustc; KEY: a hash of the manifest and of the flags
//! {"program": PATH, "arguments": [TEXT, ...], "variables": {NAME: TEXT, ...}}
//! ```
//!
//! Cargo calls the compiler of the cell through this program, which records the call. The build
//! directory is left out of it, so that the kernels that start with a copy of the built prelude
//! call rustc for their first cell already.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::json;

use super::answers::{here, keep, stable_manifest, with, without};
use super::build::{CELL, run_rustc};

/// The name under which cargo calls this program instead of rustc.
pub const RUSTC: &str = "dam-rustc";

/// The directory of recorded calls, in the build directory.
pub const CALLS: &str = ".dam-calls";

/// The environment variable with the file for the call of the compiler.
const RECORD: &str = "DAM_CALL";

/// The environment variable that evcxr sets if it is to wrap rustc itself.
const WRAPPED: &str = "EVCXR_RUSTC_WRAPPER";

/// The beginnings of the names of variables that cargo sets for rustc. (All of `CARGO_` would
/// include passwords, and pipes to the cargo that has ended.)
const VARIABLES: [&str; 6] = [
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "LD_LIBRARY_PATH",
    "DYLD_",
];

/// A call of rustc.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    program: String,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
}

/// Builds the cell in this directory, for which cargo was called with `arguments`, without cargo.
/// None: there is no call to repeat, so cargo has to build, with [`record`].
pub fn build(arguments: &[OsString]) -> Option<ExitCode> {
    let call = Call::read(&file(arguments)?, &here()?)?;
    let library = call.library()?;
    // An earlier cell may be running from a link to this file.
    let _ = fs::remove_file(&library);
    let mut command = Command::new(&call.program);
    command.args(&call.arguments).envs(&call.variables);
    let done = run_rustc(command);
    if done == ExitCode::SUCCESS {
        println!(
            "{}",
            json!({"reason": "compiler-artifact", "target": {"name": CELL}, "filenames": [library]})
        );
    }
    Some(done)
}

/// Makes cargo record how it calls the compiler of the cell.
pub fn record(cargo: &mut Command, arguments: &[OsString]) {
    // Beside the wrapper of cargo, which this is.
    let program = std::env::args_os().next().map(|cargo| Path::new(&cargo).with_file_name(RUSTC));
    let (Some(file), Some(program)) = (file(arguments), program.filter(|file| file.exists()))
    else {
        return;
    };
    cargo.env(RECORD, file).env("RUSTC_WORKSPACE_WRAPPER", program);
}

/// Whether this process was started instead of rustc.
pub fn is_rustc() -> bool {
    std::env::var_os(RECORD).is_some()
        && std::env::args_os()
            .next()
            .is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new(RUSTC)))
}

/// Records the call if it is for the cell, and becomes rustc.
pub fn rustc() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(program), Some(file)) = (arguments.next(), std::env::var_os(RECORD)) else {
        return ExitCode::FAILURE;
    };
    let arguments: Vec<OsString> = arguments.collect();
    if arguments.windows(2).any(|two| two[0] == "--crate-name" && two[1] == CELL) {
        // Without a record, cargo builds the next cell too.
        let _ = Call::current(&program, &arguments)
            .and_then(|call| call.write(Path::new(&file), &here()?).ok());
    }
    let error = Command::new(program).args(arguments).env_remove(RECORD).exec();
    eprintln!("rustc does not start: {error}");
    ExitCode::FAILURE
}

/// The file of the call for the manifest in this directory. None if cargo has to see whether a
/// dependency has changed, or if evcxr wraps rustc.
fn file(arguments: &[OsString]) -> Option<PathBuf> {
    let manifest = stable_manifest().filter(|_| std::env::var_os(WRAPPED).is_none())?;
    let mut key = DefaultHasher::new();
    // rustc itself, of which every kernel has its own link.
    let rustc = std::env::var_os("RUSTC").and_then(|rustc| fs::canonicalize(rustc).ok());
    (manifest, arguments, std::env::var_os("RUSTFLAGS"), rustc).hash(&mut key);
    Some(Path::new(&here()?).join(CALLS).join(format!("{:016x}", key.finish())))
}

impl Call {
    /// The call by which cargo started this process.
    fn current(program: &OsStr, arguments: &[OsString]) -> Option<Self> {
        let text = |text: &OsStr| text.to_str().map(str::to_owned);
        let is_cargos = |name: &str| VARIABLES.iter().any(|prefix| name.starts_with(prefix));
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((text(&name).filter(|name| is_cargos(name))?, text(&value)?))
        });
        Some(Self {
            program: text(fs::canonicalize(program).ok()?.as_os_str())?,
            arguments: arguments.iter().map(|argument| text(argument)).collect::<Option<_>>()?,
            variables: variables.collect(),
        })
    }

    fn write(&self, file: &Path, here: &str) -> std::io::Result<()> {
        let Self { program, arguments, variables } = self;
        let call = json!({"program": program, "arguments": arguments, "variables": variables});
        keep(file, &without(&call.to_string(), here))
    }

    /// The call in `file`, if all crates that it names are there.
    fn read(file: &Path, here: &str) -> Option<Self> {
        let text = with(&fs::read_to_string(file).ok()?, here);
        let call: serde_json::Value = serde_json::from_str(&text).ok()?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let call = Self {
            program: text(&call["program"])?,
            arguments: call["arguments"].as_array()?.iter().map(text).collect::<Option<_>>()?,
            variables: (call["variables"].as_object()?.iter())
                .map(|(name, value)| Some((name.clone(), text(value)?)))
                .collect::<Option<_>>()?,
        };
        let is_there =
            |named: &str| named.split_once('=').is_none_or(|(_, file)| Path::new(file).is_file());
        let are_there = call.values("--extern").all(is_there);
        are_there.then_some(call)
    }

    /// The values of an option.
    fn values<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        self.arguments.windows(2).filter(move |two| two[0] == option).map(|two| two[1].as_str())
    }

    /// The dynamic library that rustc writes.
    fn library(&self) -> Option<PathBuf> {
        let directory = self.values("--out-dir").next()?;
        Some(Path::new(directory).join(format!("{DLL_PREFIX}{CELL}{DLL_SUFFIX}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_repeated_in_another_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (file, library) =
            (directory.path().join("call"), directory.path().join("libdice.rlib"));
        let call = |here: &str| Call {
            program: "/bin/rustc".into(),
            arguments: ["--extern".into(), format!("dice={here}/libdice.rlib")]
                .into_iter()
                .chain(["--out-dir".into(), format!("{here}/a \"b\"")])
                .collect(),
            variables: BTreeMap::from([("CARGO_MANIFEST_DIR".into(), here.into())]),
        };
        let here = directory.path().to_str().unwrap();
        call("/else/where").write(&file, "/else/where").unwrap();
        assert_eq!(Call::read(&file, here), None, "there is no such crate");
        fs::write(library, "").unwrap();
        let read = Call::read(&file, here).unwrap();
        assert_eq!(read, call(here));
        assert!(read.library().unwrap().starts_with(directory.path().join("a \"b\"")));
    }
}
