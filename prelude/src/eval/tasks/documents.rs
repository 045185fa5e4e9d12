//! Documents of a task: where their files are, and columns that are added to them.

use std::path::{Path, PathBuf};

use minijinja::value::Value;

use super::keys::pairs;
use crate::data::Documents;
use crate::error::{Error, Result};

/// Adds the columns that `make` makes of each document and its index; they replace those of the
/// same names.
pub(super) fn with_columns(
    documents: Documents,
    mut make: impl FnMut(usize, &Value) -> Result<Vec<(String, Value)>>,
) -> Result<Documents> {
    let Documents { mut columns, mut rows } = documents;
    for (i, row) in rows.iter_mut().enumerate() {
        let made = make(i, row)?;
        for (name, _) in &made {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        let mut all = pairs(row);
        all.retain(|(name, _)| !made.iter().any(|(own, _)| own == name));
        all.extend(made);
        *row = Value::from_pairs(all);
    }
    Ok(Documents { columns, rows })
}

/// The path of `name`, which the task `file` names.
pub(super) fn find(file: &Path, name: &str) -> Result<PathBuf> {
    let here = std::path::absolute(name).map_err(|e| Error::io("read", name, e))?;
    let beside = file.parent().unwrap_or(Path::new("")).join(name);
    let path = if here.exists() || !beside.exists() { here } else { beside };
    std::path::absolute(&path).map_err(|e| Error::io("read", path, e))
}
