//! Answers of `cargo metadata`, which takes longer than a cell: they are kept with the built
//! prelude, so that a kernel that starts does not wait for what is known.
//!
//! ```text
//! .dam-answers/KEY    the standard output; KEY: a hash of the manifest, the versions and the arguments
//! ```
//!
//! The build directory is left out of an answer, because every kernel has another one.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::lock::{LOCK_FILE, dependencies, name};
use super::package::PRELUDE;
use crate::kernel::environment::{BUILD_DIRECTORY, EVCXR};

/// The directory of answers, in the build directory.
pub const ANSWERS: &str = ".dam-answers";

/// What stands for the build directory, in answers and in recorded calls.
const HERE: &str = "{build directory}";

/// The argument before the copy of a lock file, which has another name each time.
const LOCK_COPY: &str = "--lockfile-path";

/// The answer to `arguments` for the cells' build directory. If it is not known, `ask` gives it, or
/// nothing if cargo fails.
pub fn answer(arguments: &[OsString], ask: impl FnOnce() -> Option<String>) -> Option<String> {
    let known = file(arguments).zip(here());
    if let Some((file, here)) = &known
        && let Ok(text) = fs::read_to_string(file)
    {
        return Some(with(&text, here));
    }
    let text = ask()?;
    if let Some((file, here)) = known {
        // An answer that is not kept is asked for again.
        let _ = keep(&file, &without(&text, &here));
    }
    Some(text)
}

/// The file of the answer; none if it depends on manifests that may change.
fn file(arguments: &[OsString]) -> Option<PathBuf> {
    let (here, manifest) = (here()?, stable_manifest()?);
    let mut key = DefaultHasher::new();
    let is_copy = |at: usize| at > 0 && arguments[at - 1] == LOCK_COPY;
    for (_, argument) in arguments.iter().enumerate().filter(|(at, _)| !is_copy(*at)) {
        without(&argument.to_string_lossy(), &here).hash(&mut key);
    }
    // Without dependencies, cargo may be writing it meanwhile.
    let lock = (!dependencies(&manifest).is_empty())
        .then(|| fs::read_to_string(Path::new(&here).join(LOCK_FILE)).ok());
    (manifest, lock, std::env::var_os(EVCXR).is_some()).hash(&mut key);
    Some(Path::new(&here).join(ANSWERS).join(format!("{:016x}", key.finish())))
}

/// The manifest of the cells; none if cargo has to see whether a dependency has changed. The
/// prelude of a build directory stays as it is.
pub fn stable_manifest() -> Option<String> {
    let manifest = fs::read_to_string(Path::new(&here()?).join("Cargo.toml")).ok()?;
    let may_change = |line: &String| name(line) != PRELUDE && line.contains("path");
    (!dependencies(&manifest).iter().any(may_change)).then_some(manifest)
}

/// The build directory.
pub fn here() -> Option<String> {
    std::env::var(BUILD_DIRECTORY).ok()
}

/// Writes `text` to `file`, in a directory that is created.
///
/// # Errors
/// The disk is full.
pub fn keep(file: &Path, text: &str) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut new = tempfile::NamedTempFile::new_in(directory)?;
    new.write_all(text.as_bytes())?;
    new.persist(file)?;
    Ok(())
}

/// JSON without the build directory.
pub fn without(text: &str, here: &str) -> String {
    text.replace(&quoted(here), HERE)
}

/// The same with the build directory.
pub fn with(text: &str, here: &str) -> String {
    text.replace(HERE, &quoted(here))
}

/// A path as it is within a JSON string.
fn quoted(path: &str) -> String {
    let quoted = json!(path).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_one_directory_becomes_text_for_another() {
        let text = json!({"root": "/a \"b\"/target", "other": "/a"}).to_string();
        let kept = without(&text, "/a \"b\"");
        assert!(!kept.contains("/target\"b") && kept.contains(HERE), "{kept}");
        assert_eq!(with(&kept, "/c"), json!({"root": "/c/target", "other": "/a"}).to_string());
        assert_eq!(with(&kept, "/a \"b\""), text);
    }
}
