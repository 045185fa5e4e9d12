//! Keeps the versions in `Cargo.lock` fixed, so that a `:dep` in a cell does not rebuild what is
//! already built.
//!
//! evcxr first checks a new dependency alone, which would make cargo forget the versions of all
//! others. It then builds everything together, which may enable more features of a crate and
//! rebuild everything that depends on it. That takes minutes, after which the new cells would use
//! another build of the prelude than the existing variables. So versions stay those that the
//! prelude was tested with wherever possible. A dependency that would change a crate of the prelude
//! is built separately, with its own copies of crates (`separate.rs`); or it is refused, if it must
//! share crates with the prelude.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::package::{LOCK, PRELUDE};

/// The name of the package with which evcxr checks a dependency.
const DUMMY: &str = "evcxr_dummy_validate_dep";

const MANIFEST: &str = "Cargo.toml";
pub const LOCK_FILE: &str = "Cargo.lock";

/// The files that list, one per line, the dependencies of the last build, and those built
/// separately.
const LAST_DEPENDENCIES: &str = ".dam-dependencies";
const SEPARATE: &str = ".dam-apart";

/// Crates of which a process cannot use a second copy beside the prelude's.
const SHARED: [&str; 2] = [PRELUDE, "candle-core"];

/// Runs `run` and then restores `Cargo.lock`.
pub fn preserving_lock<T>(run: impl FnOnce() -> T) -> T {
    let before = fs::read(LOCK_FILE);
    let done = run();
    // Without an earlier lock file, the new one is kept.
    if let Ok(before) = before
        && fs::read(LOCK_FILE).ok().as_ref() != Some(&before)
    {
        let _ = fs::write(LOCK_FILE, before);
    }
    done
}

/// Checks the dependency that evcxr asks about together with all others. Returns whether this was
/// such a check.
///
/// # Errors
/// The dependency is not available, or would change what is built; the message says what to do.
pub fn check_dependency(cargo: &dyn Fn() -> Command) -> Result<bool> {
    let manifest = fs::read_to_string(MANIFEST).unwrap_or_default();
    let known = known_dependencies();
    if !manifest.contains(DUMMY) || known.is_empty() {
        return Ok(false);
    }
    let requested = dependencies(&manifest);
    let others = known
        .into_iter()
        .filter(|line| !requested.iter().any(|requested| name(requested) == name(line)));
    let all: Vec<String> = others.chain(requested.clone()).collect();
    match resolve(&all, cargo)? {
        Resolution::Compatible(lock) => {
            fs::write(LOCK_FILE, lock)?;
            unmark_separate(&requested)?;
        }
        Resolution::Conflict(difference) => {
            let (own, _) = metadata(&requested, LOCK, cargo)?;
            if let Some(shared) =
                SHARED.iter().find(|shared| own.keys().any(|(name, _)| name == *shared))
            {
                bail!(
                    "this dependency uses `{shared}` and would change its build: {difference}\n\
                     hint: request fewer features, for example with `default-features = false`, so that variables can be kept"
                );
            }
            unmark_separate(&requested)?;
            fs::write(
                SEPARATE,
                lines(SEPARATE).into_iter().chain(requested).collect::<Vec<_>>().join("\n"),
            )?;
        }
    }
    Ok(true)
}

/// Removes `requested` from the dependencies built separately.
fn unmark_separate(requested: &[String]) -> Result<()> {
    let left = lines(SEPARATE)
        .into_iter()
        .filter(|line| !requested.iter().any(|requested| name(requested) == name(line)));
    Ok(fs::write(SEPARATE, left.collect::<Vec<_>>().join("\n"))?)
}

/// Checks that the cell in this directory may be built; returns its dependencies that are built
/// separately.
///
/// # Errors
/// Its dependencies would change what is built.
pub fn check_build(cargo: &dyn Fn() -> Command) -> Result<Vec<String>> {
    let known_separate = lines(SEPARATE);
    let (separate, requested): (Vec<String>, Vec<String>) =
        dependencies(&fs::read_to_string(MANIFEST)?)
            .into_iter()
            .partition(|line| known_separate.contains(line));
    let known = known_dependencies();
    let is = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
    if is(&requested) == is(&known) || !requested.iter().any(|line| name(line) == PRELUDE) {
        return Ok(separate);
    }
    // The first build with the prelude is the reference for later ones.
    if !known.is_empty() {
        match resolve(&requested, cargo)? {
            Resolution::Compatible(lock) => fs::write(LOCK_FILE, lock)?,
            Resolution::Conflict(difference) => bail!(
                "this would change the build of the prelude: {difference}\n\
                 hint: add it with `:dep`, which builds it separately if necessary"
            ),
        }
    }
    fs::write(LAST_DEPENDENCIES, requested.join("\n"))?;
    Ok(separate)
}

/// The manifest of this directory without the dependencies in `separate`.
///
/// # Errors
/// The manifest cannot be read.
pub fn manifest_without(separate: &[String]) -> Result<String> {
    let manifest = fs::read_to_string(MANIFEST)?;
    Ok(manifest
        .lines()
        .filter(|line| !separate.iter().any(|separate| separate == line.trim()))
        .map(|line| format!("{line}\n"))
        .collect())
}

fn lines(file: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn known_dependencies() -> Vec<String> {
    lines(LAST_DEPENDENCIES)
}

/// The dependency lines of a manifest written by evcxr.
pub fn dependencies(manifest: &str) -> Vec<String> {
    let lines =
        manifest.lines().map(str::trim).skip_while(|line| *line != "[dependencies]").skip(1);
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The name in a dependency line.
pub fn name(line: &str) -> &str {
    line.split('=').next().unwrap_or_default().trim()
}

/// The result of resolving dependencies together.
enum Resolution {
    /// The crates of the prelude are unchanged; the new lock file.
    Compatible(String),
    /// A crate of the prelude would change; the message says how.
    Conflict(String),
}

fn resolve(dependencies: &[String], cargo: &dyn Fn() -> Command) -> Result<Resolution> {
    let base: Vec<String> =
        dependencies.iter().filter(|line| name(line) == PRELUDE).cloned().collect();
    let (before, _) = metadata(&base, LOCK, cargo)?;
    let (after, lock) = metadata(
        dependencies,
        &merge_locks(LOCK, &fs::read_to_string(LOCK_FILE).unwrap_or_default()),
        cargo,
    )?;
    Ok(difference(&before, &after).map_or(Resolution::Compatible(lock), Resolution::Conflict))
}

/// Writes an empty package with these dependencies and versions into `directory`.
///
/// # Errors
/// The directory is not writable.
pub fn package(directory: &Path, dependencies: &[String], lock: &str) -> Result<()> {
    let write = |name: &str, text: &str| fs::write(directory.join(name), text);
    let head = "[package]\nname = \"ctx\"\nversion = \"1.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n";
    write(MANIFEST, &format!("{head}[dependencies]\n{}\n", dependencies.join("\n")))?;
    write(LOCK_FILE, lock)?;
    Ok(write("lib.rs", "")?)
}

/// The output of `cargo metadata` for the package in `directory`, limited to the target of cells.
///
/// # Errors
/// Cargo fails; the message is cargo's own.
pub fn cargo_metadata(directory: &Path, cargo: &dyn Fn() -> Command) -> Result<Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1"]).current_dir(directory);
    command.args(target().iter().flat_map(|target| ["--filter-platform", target]));
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Progress lines are left out of messages.
    let messages: Vec<&str> = stderr
        .lines()
        .filter(|line| {
            !PROGRESS_PREFIXES.iter().any(|prefix| line.trim_start().starts_with(prefix))
        })
        .collect();
    if !output.status.success() {
        bail!("{}", messages.join("\n").trim());
    }
    // evcxr reads from there which packages are not libraries.
    messages.iter().for_each(|line| eprintln!("{line}"));
    serde_json::from_slice(&output.stdout).context("invalid JSON from cargo metadata")
}

/// The prefixes of cargo's progress lines.
const PROGRESS_PREFIXES: [&str; 6] =
    ["Updating ", "Locking ", "Adding ", "Downloading ", "Downloaded ", "Blocking "];

/// The features of every package in the dependency graph of `dependencies`, and the resulting lock
/// file.
fn metadata(
    dependencies: &[String],
    lock: &str,
    cargo: &dyn Fn() -> Command,
) -> Result<(Packages, String)> {
    // Inside the directory of cells, so that cargo finds the same settings.
    let directory = tempfile::Builder::new().prefix(".dam-look-").tempdir_in(".")?;
    package(directory.path(), dependencies, lock)?;
    let all = cargo_metadata(directory.path(), cargo)?;
    Ok((packages(&all), fs::read_to_string(directory.path().join(LOCK_FILE))?))
}

/// The target triple of cells.
pub fn target() -> Option<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "host-tuple"]).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
        .filter(|target| !target.is_empty())
}

/// Features by package name and version.
type Packages = BTreeMap<(String, String), BTreeSet<String>>;

fn packages(all: &Value) -> Packages {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = all["resolve"]["nodes"].as_array().into_iter().flatten();
    let features: BTreeMap<String, BTreeSet<String>> = nodes
        .map(|node| {
            (
                text(&node["id"]),
                node["features"].as_array().into_iter().flatten().map(text).collect(),
            )
        })
        .collect();
    let packages = all["packages"].as_array().into_iter().flatten();
    let own = |package: &&Value| {
        all["workspace_members"].as_array().is_none_or(|own| !own.contains(&package["id"]))
    };
    packages
        .filter(own)
        .filter_map(|p| {
            Some(((text(&p["name"]), text(&p["version"])), features.get(&text(&p["id"]))?.clone()))
        })
        .collect()
}

/// The first difference between `before` and `after`, in words.
fn difference(before: &Packages, after: &Packages) -> Option<String> {
    before.iter().find_map(|((name, version), features)| {
        match after.get(&(name.clone(), version.clone())) {
            None => Some(format!("`{name}` would not stay at {version}")),
            Some(now) if now == features => None,
            Some(now) => {
                let other: Vec<String> = now
                    .symmetric_difference(features)
                    .map(|feature| format!("`{feature}`"))
                    .collect();
                Some(format!(
                    "`{name} {version}` would have different features ({})",
                    other.join(", ")
                ))
            }
        }
    })
}

/// The lock file `tested` with the packages of `now` that it lacks.
fn merge_locks(tested: &str, now: &str) -> String {
    let head = |block: &str| {
        block.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default().to_owned()
    };
    let blocks =
        |lock: &str| lock.split("[[package]]").skip(1).map(str::to_owned).collect::<Vec<_>>();
    let names: BTreeSet<String> = blocks(tested).iter().map(|block| head(block)).collect();
    let new = blocks(now).into_iter().filter(|block| !names.contains(&head(block)));
    let new: String = new.map(|block| format!("[[package]]{}\n\n", block.trim_end())).collect();
    format!("{}\n\n{new}", tested.trim_end())
}

/// The lock file that the prelude was tested with, extended by the packages added since in
/// `directory`.
pub fn extended_lock(directory: &Path) -> String {
    merge_locks(LOCK, &fs::read_to_string(directory.join(LOCK_FILE)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dependencies_are_read_from_a_manifest() {
        let manifest = "[package]\nname = \"ctx\"\n\n[dependencies]\ndam-prelude = { path = \"/p\" }\n  dice = \"1\"\n\n";
        let lines = dependencies(manifest);
        assert_eq!(lines, ["dam-prelude = { path = \"/p\" }", "dice = \"1\""]);
        assert_eq!(
            lines.iter().map(|line| name(line)).collect::<Vec<_>>(),
            ["dam-prelude", "dice"]
        );
    }

    #[test]
    fn the_first_difference_between_builds_is_named() {
        let of = |serde: &str, features: &[&str]| {
            packages(&json!({
                "workspace_members": ["ctx"],
                "packages": [{"id": "ctx", "name": "ctx", "version": "1"}, {"id": "s", "name": "serde", "version": serde}],
                "resolve": {"nodes": [{"id": "ctx", "features": []}, {"id": "s", "features": features}]},
            }))
        };
        let before = of("1.0", &["derive"]);
        assert_eq!(difference(&before, &of("1.0", &["derive"])), None);
        assert_eq!(
            difference(&before, &of("1.1", &["derive"])).unwrap(),
            "`serde` would not stay at 1.0"
        );
        assert!(difference(&before, &of("1.0", &["derive", "rc"])).unwrap().contains("(`rc`)"));
        assert_eq!(difference(&Packages::new(), &before), None);
    }

    #[test]
    fn tested_versions_are_kept_and_new_packages_added() {
        let tested = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1\"\n";
        let now = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"2\"\n\n[[package]]\nname = \"b\"\nversion = \"3\"\n";
        let merged = merge_locks(tested, now);
        assert_eq!(merged.matches("[[package]]").count(), 2);
        assert!(
            merged.contains("name = \"a\"\nversion = \"1\"")
                && merged.contains("name = \"b\"\nversion = \"3\"")
        );
    }
}
