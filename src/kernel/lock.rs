//! What a cell asks for with `:dep` changes nothing of what is built already.
//!
//! evcxr looks at a dependency alone first, by which cargo would forget what versions all others have, and then builds
//! everything together, by which a crate may get other features, and everything that needs it be built anew: minutes,
//! after which the cells' process has another prelude than its variables. So versions are those that the prelude was
//! tested with wherever they can be, and what would change a crate of the prelude's is built apart from it (`apart.rs`), with
//! crates of its own; or refused, where it is to work with the prelude's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::prepare::LOCK;

/// The name of the package with which evcxr looks at a dependency.
const DUMMY: &str = "evcxr_dummy_validate_dep";

/// The prelude's.
const PRELUDE: &str = "dam-prelude";

const MANIFEST: &str = "Cargo.toml";
const LOCKED: &str = "Cargo.lock";

/// The dependencies that cells were last built with, a line each, and those that are built apart.
const KNOWN: &str = ".dam-dependencies";
const APART: &str = ".dam-apart";

/// What one cannot have of one's own beside the prelude's.
const SHARED: [&str; 2] = [PRELUDE, "candle-core"];

/// Runs `run` and leaves the versions as they were.
pub fn keeping<T>(run: impl FnOnce() -> T) -> T {
    let before = fs::read(LOCKED);
    let done = run();
    // Where there were none, those found are as good as others.
    if let Ok(before) = before
        && fs::read(LOCKED).ok().as_ref() != Some(&before)
    {
        let _ = fs::write(LOCKED, before);
    }
    done
}

/// Looks at the dependency that evcxr asks about beside all others. Tells whether this was such a question.
///
/// # Errors
/// It cannot be had, or would change what is built; with what to do.
pub fn look(cargo: &dyn Fn() -> Command) -> Result<bool> {
    let manifest = fs::read_to_string(MANIFEST).unwrap_or_default();
    let known = known();
    if !manifest.contains(DUMMY) || known.is_empty() {
        return Ok(false);
    }
    let asked = dependencies(&manifest);
    let others = known.into_iter().filter(|line| !asked.iter().any(|asked| name(asked) == name(line)));
    let all: Vec<String> = others.chain(asked.clone()).collect();
    match resolved(&all, cargo)? {
        Resolved::Together(lock) => {
            fs::write(LOCKED, lock)?;
            leave_apart(&asked)?;
        }
        Resolved::Other(difference) => {
            let tested = fs::read_to_string(LOCK)?;
            let (own, _) = metadata(&asked, &tested, cargo)?;
            if let Some(shared) = SHARED.iter().find(|shared| own.keys().any(|(name, _)| name == *shared)) {
                bail!(
                    "this works with `{shared}`, and would change what that was built with: {difference}\n\
                     hint: ask for less, with `default-features = false` say, so that variables can be kept"
                );
            }
            leave_apart(&asked)?;
            fs::write(APART, lines(APART).into_iter().chain(asked).collect::<Vec<_>>().join("\n"))?;
        }
    }
    Ok(true)
}

/// What was built apart is not, or is it otherwise.
fn leave_apart(asked: &[String]) -> Result<()> {
    let left = lines(APART).into_iter().filter(|line| !asked.iter().any(|asked| name(asked) == name(line)));
    Ok(fs::write(APART, left.collect::<Vec<_>>().join("\n"))?)
}

/// Sees that the cell in this directory may be built; gives those of its dependencies that are to be built apart.
///
/// # Errors
/// What it depends on would change what is built.
pub fn allow(cargo: &dyn Fn() -> Command) -> Result<Vec<String>> {
    let known_apart = lines(APART);
    let (apart, asked): (Vec<String>, Vec<String>) =
        dependencies(&fs::read_to_string(MANIFEST)?).into_iter().partition(|line| known_apart.contains(line));
    let known = known();
    let is = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
    if is(&asked) == is(&known) || !asked.iter().any(|line| name(line) == PRELUDE) {
        return Ok(apart);
    }
    // The first that is built with the prelude is what others are compared with.
    if !known.is_empty() {
        match resolved(&asked, cargo)? {
            Resolved::Together(lock) => fs::write(LOCKED, lock)?,
            Resolved::Other(difference) => bail!(
                "this would change what the prelude was built with: {difference}\n\
                 hint: add it with `:dep`, which builds it apart if it must"
            ),
        }
    }
    fs::write(KNOWN, asked.join("\n"))?;
    Ok(apart)
}

/// The manifest of this directory without some of its dependencies.
///
/// # Errors
/// It cannot be read.
pub fn without(apart: &[String]) -> Result<String> {
    let manifest = fs::read_to_string(MANIFEST)?;
    Ok(manifest.lines().filter(|line| !apart.iter().any(|apart| apart == line.trim())).map(|line| format!("{line}\n")).collect())
}

fn lines(file: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn known() -> Vec<String> {
    lines(KNOWN)
}

/// The lines of dependencies of a manifest that evcxr wrote.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[dependencies]").skip(1);
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The name that a line of dependencies begins with.
fn name(line: &str) -> &str {
    line.split('=').next().unwrap_or_default().trim()
}

/// What became of dependencies together.
enum Resolved {
    /// The prelude's are as they were; the versions of all.
    Together(String),
    /// One of the prelude's would be another, in words.
    Other(String),
}

fn resolved(dependencies: &[String], cargo: &dyn Fn() -> Command) -> Result<Resolved> {
    let tested = fs::read_to_string(LOCK).with_context(|| format!("there is no {LOCK}"))?;
    let base: Vec<String> = dependencies.iter().filter(|line| name(line) == PRELUDE).cloned().collect();
    let (before, _) = metadata(&base, &tested, cargo)?;
    let (after, lock) = metadata(dependencies, &merged(&tested, &fs::read_to_string(LOCKED).unwrap_or_default()), cargo)?;
    Ok(difference(&before, &after).map_or(Resolved::Together(lock), Resolved::Other))
}

/// Writes a package without anything of its own into `directory`, with dependencies and versions.
///
/// # Errors
/// A place that may not be written.
pub fn package(directory: &Path, dependencies: &[String], lock: &str) -> Result<()> {
    let write = |name: &str, text: &str| fs::write(directory.join(name), text);
    let head = "[package]\nname = \"ctx\"\nversion = \"1.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n";
    write(MANIFEST, &format!("{head}[dependencies]\n{}\n", dependencies.join("\n")))?;
    write(LOCKED, lock)?;
    Ok(write("lib.rs", "")?)
}

/// What cargo says of the package in `directory`, for what cells are compiled for.
///
/// # Errors
/// What cargo says is missing.
pub fn described(directory: &Path, cargo: &dyn Fn() -> Command) -> Result<Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1"]).current_dir(directory);
    command.args(target().iter().flat_map(|target| ["--filter-platform", target]));
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // What it has done says nothing here.
    let said: Vec<&str> = said.lines().filter(|line| !DONE.iter().any(|done| line.trim_start().starts_with(done))).collect();
    if !output.status.success() {
        bail!("{}", said.join("\n").trim());
    }
    // evcxr reads there what is no library.
    said.iter().for_each(|line| eprintln!("{line}"));
    serde_json::from_slice(&output.stdout).context("cargo says what is no JSON")
}

/// How lines of cargo begin that say what it does.
const DONE: [&str; 6] = ["Updating ", "Locking ", "Adding ", "Downloading ", "Downloaded ", "Blocking "];

/// The features of every package that one with `dependencies` is built of, and their versions as cargo writes them.
fn metadata(dependencies: &[String], lock: &str, cargo: &dyn Fn() -> Command) -> Result<(Packages, String)> {
    // Below the directory of cells, where cargo finds the same settings.
    let directory = tempfile::Builder::new().prefix(".dam-look-").tempdir_in(".")?;
    package(directory.path(), dependencies, lock)?;
    let all = described(directory.path(), cargo)?;
    Ok((packages(&all), fs::read_to_string(directory.path().join(LOCKED))?))
}

/// What cells are compiled for.
pub fn target() -> Option<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = Command::new(rustc).args(["--print", "host-tuple"]).output().ok()?;
    Some(String::from_utf8(asked.stdout).ok()?.trim().to_owned()).filter(|target| !target.is_empty())
}

/// Packages by name and version, with their features.
type Packages = BTreeMap<(String, String), BTreeSet<String>>;

fn packages(all: &Value) -> Packages {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = all["resolve"]["nodes"].as_array().into_iter().flatten();
    let features: BTreeMap<String, BTreeSet<String>> =
        nodes.map(|node| (text(&node["id"]), node["features"].as_array().into_iter().flatten().map(text).collect())).collect();
    let packages = all["packages"].as_array().into_iter().flatten();
    let own = |package: &&Value| all["workspace_members"].as_array().is_none_or(|own| !own.contains(&package["id"]));
    packages
        .filter(own)
        .filter_map(|p| Some(((text(&p["name"]), text(&p["version"])), features.get(&text(&p["id"]))?.clone())))
        .collect()
}

/// The first thing that is otherwise `after`, in words.
fn difference(before: &Packages, after: &Packages) -> Option<String> {
    before.iter().find_map(|((name, version), features)| match after.get(&(name.clone(), version.clone())) {
        None => Some(format!("`{name}` could not stay at {version}")),
        Some(now) if now == features => None,
        Some(now) => {
            let other: Vec<String> = now.symmetric_difference(features).map(|feature| format!("`{feature}`")).collect();
            Some(format!("`{name} {version}` would have other features ({})", other.join(", ")))
        }
    })
}

/// The versions of `tested`, and those of packages that it does not know.
fn merged(tested: &str, now: &str) -> String {
    let head = |block: &str| block.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default().to_owned();
    let blocks = |lock: &str| lock.split("[[package]]").skip(1).map(str::to_owned).collect::<Vec<_>>();
    let names: BTreeSet<String> = blocks(tested).iter().map(|block| head(block)).collect();
    let new = blocks(now).into_iter().filter(|block| !names.contains(&head(block)));
    let new: String = new.map(|block| format!("[[package]]{}\n\n", block.trim_end())).collect();
    format!("{}\n\n{new}", tested.trim_end())
}

/// The versions that the prelude was tested with, and those found since in `directory`.
///
/// # Errors
/// The prelude's source has gone.
pub fn versions(directory: &Path) -> Result<String> {
    let tested = fs::read_to_string(LOCK).with_context(|| format!("there is no {LOCK}"))?;
    Ok(merged(&tested, &fs::read_to_string(directory.join(LOCKED)).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_dependencies_of_a_manifest_are_read() {
        let manifest = "[package]\nname = \"ctx\"\n\n[dependencies]\ndam-prelude = { path = \"/p\" }\n  dice = \"1\"\n\n";
        let lines = dependencies(manifest);
        assert_eq!(lines, ["dam-prelude = { path = \"/p\" }", "dice = \"1\""]);
        assert_eq!(lines.iter().map(|line| name(line)).collect::<Vec<_>>(), ["dam-prelude", "dice"]);
    }

    #[test]
    fn what_would_be_built_anew_is_named() {
        let of = |serde: &str, features: &[&str]| {
            packages(&json!({
                "workspace_members": ["ctx"],
                "packages": [{"id": "ctx", "name": "ctx", "version": "1"}, {"id": "s", "name": "serde", "version": serde}],
                "resolve": {"nodes": [{"id": "ctx", "features": []}, {"id": "s", "features": features}]},
            }))
        };
        let before = of("1.0", &["derive"]);
        assert_eq!(difference(&before, &of("1.0", &["derive"])), None);
        assert_eq!(difference(&before, &of("1.1", &["derive"])).unwrap(), "`serde` could not stay at 1.0");
        assert!(difference(&before, &of("1.0", &["derive", "rc"])).unwrap().contains("(`rc`)"));
        assert_eq!(difference(&Packages::new(), &before), None);
    }

    #[test]
    fn tested_versions_are_kept_and_others_added() {
        let tested = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1\"\n";
        let now = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"2\"\n\n[[package]]\nname = \"b\"\nversion = \"3\"\n";
        let merged = merged(tested, now);
        assert_eq!(merged.matches("[[package]]").count(), 2);
        assert!(merged.contains("name = \"a\"\nversion = \"1\"") && merged.contains("name = \"b\"\nversion = \"3\""));
    }
}
