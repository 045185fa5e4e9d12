//! The source of the standard library without comments, which rust-analyzer reads instead of the
//! original. It is half as large, and reading it is most of what the first cell waits for.
//!
//! ```text
//! CACHE/dam/prelude-KEY/library/core/src/lib.rs
//! ```

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use ra_ap_syntax::{AstToken, Edition, NodeOrToken, SourceFile, ast};

use super::cache::cache;
use crate::kernel::environment;
use crate::kernel::files::text;

/// The directory of the copy, beside the built prelude.
const DIRECTORY: &str = "library";

/// The crates whose types cells use. Without a manifest beside them, rust-analyzer needs no others.
const CRATES: [&str; 4] = ["core", "alloc", "std", "proc_macro"];

/// The environment variable with the library that rust-analyzer reads.
const SOURCE: &str = "RUST_SRC_PATH";

/// Writes the copy into a build directory, unless the source is not installed.
///
/// # Errors
/// The disk is full.
pub fn write(directory: &Path) -> Result<()> {
    let Some(source) = original() else { return Ok(()) };
    for name in CRATES {
        copy(&source.join(name).join("src"), &directory.join(DIRECTORY).join(name).join("src"))?;
    }
    Ok(())
}

/// Makes rust-analyzer read the copy in `directory`, if there is one and the user has not chosen
/// another source.
///
/// # Errors
/// There is no cache directory.
pub fn choose(directory: &Path) -> Result<()> {
    let (copy, cache) = (directory.canonicalize()?.join(DIRECTORY), cache()?.canonicalize()?);
    let is_ours = |source: OsString| Path::new(&source).starts_with(&cache);
    if std::env::var_os(SOURCE).is_none_or(is_ours) && copy.is_dir() {
        environment::set(SOURCE, copy);
    }
    Ok(())
}

/// The directory of the standard library's source, if it is installed.
pub fn original() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library"))
        .filter(|library| library.is_dir())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            fs::write(to.join(name), without_comments(&text(&path)?))?;
        }
    }
    Ok(())
}

/// Rust without comments.
fn without_comments(rust: &str) -> String {
    let file = SourceFile::parse(rust, Edition::Edition2024).syntax_node();
    let tokens = file.descendants_with_tokens().filter_map(NodeOrToken::into_token);
    let mut left = String::with_capacity(rust.len());
    for token in tokens {
        match ast::Comment::cast(token.clone()) {
            // What is before it stays apart from what is after it.
            Some(_) => left.push(' '),
            None => left.push_str(token.text()),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comments_are_left_out() {
        let rust =
            "//! A.\n/// B.\nfn f() -> &'static str { /* c */ \"// d\" }\nm! { /// E\n a/**/b }\n";
        assert_eq!(
            without_comments(rust),
            " \n \nfn f() -> &'static str {   \"// d\" }\nm! {  \n a b }\n"
        );
    }
}
