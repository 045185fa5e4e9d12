//! The models and datasets that are built into this library.

use include_dir::{Dir, include_dir};

use super::bytes::Bytes;
use crate::error::{Error, Result};

static BUILTIN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/builtin");

/// The prefix of a built-in model or dataset.
pub const BUILTIN_PREFIX: &str = "builtin:";

/// The files of the built-in model `name`.
pub(crate) fn builtin_model(name: &str) -> Result<&'static Dir<'static>> {
    let models: Vec<&str> = builtin_models().collect();
    let dir = BUILTIN.get_dir(name).filter(|_| models.contains(&name));
    dir.ok_or_else(|| Error::unknown("built-in model", name, models))
}

/// The names of the built-in models.
pub(crate) fn builtin_models() -> impl Iterator<Item = &'static str> {
    BUILTIN
        .dirs()
        .filter(|d| d.get_file(d.path().join("config.json")).is_some())
        .filter_map(|d| d.path().to_str())
}

/// The names of the built-in datasets (`NAME` to merge on, `NAME-heldout` to score on).
pub(crate) fn builtin_data() -> impl Iterator<Item = &'static str> {
    stems("data")
}

/// The names of the files in a built-in directory.
fn stems(directory: &str) -> impl Iterator<Item = &'static str> {
    let files = BUILTIN.get_dir(directory).into_iter().flat_map(|d| d.files());
    let lines = files.filter(|f| f.path().extension().is_some_and(|end| end == "jsonl"));
    lines.filter_map(|f| f.path().file_stem()?.to_str())
}

/// The bytes of a built-in dataset.
pub(crate) fn builtin_data_file(name: &str) -> Result<Bytes> {
    file("data", name).ok_or_else(|| Error::unknown("built-in dataset", name, builtin_data()))
}

/// The bytes of built-in documents: of a task, or of a dataset.
pub(crate) fn builtin_documents(name: &str) -> Result<Bytes> {
    let known = || stems("tasks").chain(builtin_data());
    let found = file("tasks", name).or_else(|| file("data", name));
    found.ok_or_else(|| Error::unknown("built-in documents", name, known()))
}

fn file(directory: &str, name: &str) -> Option<Bytes> {
    let file = BUILTIN.get_file(format!("{directory}/{name}.jsonl"))?;
    Some(Bytes::Static(file.contents()))
}
