//! Paths as people type them.

use crate::error::{Error, Result};

/// `path` with a leading `~/` replaced by the home directory, as a shell would.
pub fn at_home(path: &str) -> String {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest).display().to_string(),
        _ => path.to_owned(),
    }
}

/// [`at_home`] of `[NAME=]PATH`, with adapters after a `+`.
pub fn source_at_home(spec: &str) -> String {
    let (name, places) = match spec.split_once('=') {
        Some((name, path)) if path.starts_with("~/") => (format!("{name}="), path),
        _ => (String::new(), spec),
    };
    let places: Vec<String> = places.split('+').map(at_home).collect();
    name + &places.join("+")
}

/// Checks, before long work begins, that the file it will write does not exist.
///
/// # Errors
/// It exists.
pub fn check_free(file: &str) -> Result<()> {
    if std::fs::symlink_metadata(file).is_ok() {
        return Err(Error::Exists { path: file.into() });
    }
    Ok(())
}
