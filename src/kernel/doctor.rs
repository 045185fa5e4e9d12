//! `dam jupyter doctor`: what notebooks need, what of it is here, and how to get the rest.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::install::Place;
use super::prepare::{FEATURES, PRELUDE, on_path, prepared};

/// One thing that notebooks need, or are better with.
pub struct Finding {
    pub what: &'static str,
    /// What was found; none: it is missing.
    pub found: Option<String>,
    /// What to do where it is missing.
    pub remedy: &'static str,
    /// Whether notebooks do without.
    pub optional: bool,
}

impl Finding {
    /// A line: `ok`, `missing` or `without`, what, and what was found or is to be done.
    pub fn line(&self) -> String {
        let (state, rest) = match (&self.found, self.optional) {
            (Some(found), _) => ("ok", found.as_str()),
            (None, false) => ("missing", self.remedy),
            (None, true) => ("without", self.remedy),
        };
        format!("{state:8} {:18} {rest}", self.what)
    }

    pub fn json(&self) -> Value {
        json!({"what": self.what, "found": self.found, "remedy": self.remedy, "optional": self.optional})
    }
}

/// Looks for everything.
///
/// # Errors
/// No home directory.
pub fn doctor(place: &Place) -> Result<Vec<Finding>> {
    let need = |what, found, remedy| Finding { what, found, remedy, optional: false };
    let wish = |what, found, remedy| Finding { what, found, remedy, optional: true };
    let spec = place.directory()?.join("kernel.json");
    let lab = said("jupyter", &["lab", "--version"]).map(|version| format!("JupyterLab {version}"));
    let built = prepared();
    let linker = ["mold", "lld", "ld.lld"].into_iter().find_map(on_path).map(|path| path.display().to_string());
    Ok(vec![
        need("jupyter", lab.or_else(|| said("jupyter", &["--version"])), "pip install jupyterlab"),
        need("rustc", said("rustc", &["--version"]), "install Rust from rustup.rs: cells are compiled"),
        need("cargo", said("cargo", &["--version"]), "install Rust from rustup.rs: cells are compiled"),
        need("linker", said("cc", &["--version"]), "install a C compiler (gcc or clang), which links what Rust compiles"),
        wish(
            "fast linker",
            linker,
            "mold or lld make cells quicker where Rust brings no linker of its own: install one, then `dam jupyter install`",
        ),
        wish("rust-src", source(), "completion does not know the standard library: rustup component add rust-src"),
        need(
            "prelude's source",
            here(Path::new(PRELUDE)),
            "it has moved: build dam again where it is now (cargo install --locked --path . --features jupyter)",
        ),
        need("prelude, built", built.ok().as_deref().and_then(here), "dam jupyter install"),
        need("kernel", here(&spec), "dam jupyter install"),
        wish(
            "GPU",
            (!FEATURES.is_empty()).then(|| FEATURES.join(", ")),
            "this dam runs on the CPU: build it with --features jupyter,cuda (or metal) for a GPU",
        ),
    ])
}

/// The first line that a program says, if it is there and does well.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next().unwrap_or("there").to_owned())
}

fn here(path: &Path) -> Option<String> {
    path.exists().then(|| path.display().to_string())
}

/// Where the standard library's source is.
fn source() -> Option<String> {
    let sysroot = said("rustc", &["--print", "sysroot"])?;
    here(&Path::new(&sysroot).join("lib/rustlib/src/rust/library"))
}
