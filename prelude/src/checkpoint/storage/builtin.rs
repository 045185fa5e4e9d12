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
    BUILTIN
        .get_dir("data")
        .into_iter()
        .flat_map(|d| d.files())
        .filter_map(|f| f.path().file_stem()?.to_str())
}

/// The bytes of a built-in dataset.
pub(crate) fn builtin_data_file(name: &str) -> Result<Bytes> {
    BUILTIN
        .get_file(format!("data/{name}.jsonl"))
        .map(|f| Bytes::Static(f.contents()))
        .ok_or_else(|| Error::unknown("built-in dataset", name, builtin_data()))
}

/// The bytes of the built-in documents `name`: of a task, or of a dataset.
pub(crate) fn builtin_documents(name: &str) -> Result<Bytes> {
    let task = BUILTIN.get_file(format!("tasks/{name}.jsonl"));
    task.map_or_else(|| builtin_data_file(name), |file| Ok(Bytes::Static(file.contents())))
}
