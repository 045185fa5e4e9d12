//! The prelude that cells are built with: the one that this program was built with.
//!
//! From a checkout or a vendored copy it is a dependency by path. From a registry it is a
//! dependency by version, because cargo deletes the sources of published packages that it has not
//! used for long, and downloads them again when it needs them.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use dam_prelude::notebook::SOURCE;

use super::cache::{CARGO, cache};
use super::package::{LOCK, PRELUDE};
use crate::kernel::environment::on_path;

/// The features of the prelude, the same as in this program.
pub const FEATURES: &[&str] = &[
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "metal")]
    "metal",
];

/// The prelude as a dependency in a manifest.
pub fn dependency() -> String {
    dependency_on(SOURCE)
}

fn dependency_on(source: &str) -> String {
    let place = match published_version(source) {
        Some(version) => format!("version = \"={version}\""),
        None => format!("path = {source:?}"),
    };
    format!("{PRELUDE} = {{ {place}, features = {FEATURES:?} }}")
}

/// The version of a published package, from the name of its directory: `dam-prelude-0.1.0`.
fn published_version(source: &str) -> Option<&str> {
    let name = Path::new(source).file_name()?.to_str()?;
    let version = name.strip_prefix(PRELUDE)?.strip_prefix('-')?;
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

/// What cells are built with: a published version, or a directory that exists.
pub fn description() -> Option<String> {
    match published_version(SOURCE) {
        Some(version) => Some(format!("{PRELUDE} {version}")),
        None => Path::new(SOURCE).is_dir().then(|| SOURCE.into()),
    }
}

/// The directory of the built prelude, whether or not it exists yet.
///
/// # Errors
/// There is no source of the prelude, or no compiler.
pub fn build_path() -> Result<PathBuf> {
    let mut key = DefaultHasher::new();
    if published_version(SOURCE).is_none() {
        hash_files(Path::new(SOURCE), &mut key).with_context(|| {
            format!(
                "the prelude source is not at {SOURCE}: rebuild `dam` from its current location"
            )
        })?;
    }
    let rustc = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("there is no Rust compiler: install Rust from rustup.rs")?;
    let linkers = ["mold", "lld"].map(|name| on_path(name).is_some());
    (rustc.stdout, LOCK, linkers, CARGO, dependency(), env!("CARGO_PKG_VERSION")).hash(&mut key);
    Ok(cache()?.join(format!("prelude-{:016x}", key.finish())))
}

/// Hashes the paths, sizes and modification times of all files under `path`.
fn hash_files(path: &Path, key: &mut DefaultHasher) -> Result<()> {
    let mut entries = fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (metadata, path) = (entry.metadata()?, entry.path());
        if metadata.is_dir() {
            hash_files(&path, key)?;
        } else {
            let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            (path, metadata.len(), modified.as_nanos()).hash(key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_prelude_is_a_dependency_by_version_and_any_other_by_path() {
        let published = "/home/me/.cargo/registry/src/index.crates.io-0/dam-prelude-0.1.0-rc.1";
        assert!(dependency_on(published).starts_with("dam-prelude = { version = \"=0.1.0-rc.1\","));
        for path in ["/home/me/dam/prelude", "/vendor/dam-prelude", "/home/me/dam-prelude-fork"] {
            let line = dependency_on(path);
            assert!(line.starts_with(&format!("dam-prelude = {{ path = {path:?},")), "{line}");
        }
    }

    /// The tests run in a checkout.
    #[test]
    fn the_source_of_the_prelude_is_found() {
        assert_eq!(description().as_deref(), Some(SOURCE));
        assert!(Path::new(SOURCE).join("src/lib.rs").is_file());
        assert!(LOCK.contains("name = \"dam-prelude\""));
    }
}
