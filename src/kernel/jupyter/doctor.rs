//! `dam jupyter doctor`: checks the requirements of notebooks, and says how to install what is
//! missing.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::spec::InstallTarget;
use crate::kernel::cargo::prelude::{self, FEATURES};
use crate::kernel::environment::on_path;

/// A required or recommended component.
pub struct Finding {
    pub what: &'static str,
    /// What was found; none if it is missing.
    pub found: Option<String>,
    /// What to do if it is missing.
    pub remedy: &'static str,
    /// Whether notebooks work without it.
    pub optional: bool,
}

impl Finding {
    /// One line: `ok`, `missing` or `without`, the component, and what was found or what to do.
    pub fn line(&self) -> String {
        let (state, rest) = match (&self.found, self.optional) {
            (Some(found), _) => ("ok", found.as_str()),
            (None, false) => ("missing", self.remedy),
            (None, true) => ("optional", self.remedy),
        };
        format!("{state:8} {:18} {rest}", self.what)
    }

    pub fn json(&self) -> Value {
        json!({"what": self.what, "found": self.found, "remedy": self.remedy, "optional": self.optional})
    }
}

/// Checks all components.
///
/// # Errors
/// There is no home directory.
pub fn doctor(target: &InstallTarget) -> Result<Vec<Finding>> {
    let need = |what, found, remedy| Finding { what, found, remedy, optional: false };
    let optional_finding = |what, found, remedy| Finding { what, found, remedy, optional: true };
    let spec = target.directory()?.join("kernel.json");
    let lab =
        first_line("jupyter", &["lab", "--version"]).map(|version| format!("JupyterLab {version}"));
    let built = prelude::build_path();
    let linker = ["mold", "lld", "ld.lld"]
        .into_iter()
        .find_map(on_path)
        .map(|path| path.display().to_string());
    Ok(vec![
        need(
            "jupyter",
            lab.or_else(|| first_line("jupyter", &["--version"])),
            "pip install jupyterlab",
        ),
        need(
            "rustc",
            first_line("rustc", &["--version"]),
            "install Rust from rustup.rs: cells are compiled",
        ),
        need(
            "cargo",
            first_line("cargo", &["--version"]),
            "install Rust from rustup.rs: cells are compiled",
        ),
        need(
            "linker",
            first_line("cc", &["--version"]),
            "install a C compiler (gcc or clang), which links what Rust compiles",
        ),
        optional_finding(
            "fast linker",
            linker,
            "mold or lld make cells faster if Rust includes no linker of its own: install one, then run `dam jupyter install`",
        ),
        optional_finding(
            "rust-src",
            source(),
            "no completion for the standard library: rustup component add rust-src",
        ),
        need(
            "prelude source",
            prelude::description(),
            "it has moved: rebuild dam at its current location (cargo install --locked --path . --features jupyter)",
        ),
        need("prelude build", built.ok().as_deref().and_then(existing), "dam jupyter install"),
        need("kernel", existing(&spec), "dam jupyter install"),
        optional_finding(
            "GPU",
            (!FEATURES.is_empty()).then(|| FEATURES.join(", ")),
            "this dam runs on the CPU: build it with --features jupyter,cuda (or metal) for a GPU",
        ),
    ])
}

/// The first line of a program's output, if the program exists and succeeds.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next().unwrap_or("found").to_owned())
}

fn existing(path: &Path) -> Option<String> {
    path.exists().then(|| path.display().to_string())
}

/// The directory of the standard library's source.
fn source() -> Option<String> {
    let sysroot = first_line("rustc", &["--print", "sysroot"])?;
    existing(&Path::new(&sysroot).join("lib/rustlib/src/rust/library"))
}
