//! The registry of installed kernels: the built prelude is deleted with the last of them.
//!
//! ```text
//! CACHE/dam/kernels      the directories of installed kernels, one per line
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::spec::{is_ours, user_data};
use crate::kernel::cargo::cache::cache;
use crate::kernel::files::text;

/// The file name of the list.
const LIST: &str = "kernels";

/// Adds a kernel in `directory`.
///
/// # Errors
/// The cache is not writable.
pub fn add(directory: &Path) -> Result<()> {
    let mut all = listed()?;
    all.insert(std::path::absolute(directory)?);
    write(&all)
}

/// The other installed kernels, after that in `directory` has been removed.
///
/// # Errors
/// The cache is not readable.
pub fn others(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = listed()?;
    // Kernels installed by versions without a list: in the same directory, or in Jupyter's data
    // directory of the user.
    let user = user_data().map(|data| data.join("kernels")).ok();
    for kernels in directory.parent().map(Path::to_owned).into_iter().chain(user) {
        let entries = fs::read_dir(kernels).into_iter().flatten().flatten();
        all.extend(entries.filter_map(|entry| std::path::absolute(entry.path()).ok()));
    }
    let gone = std::path::absolute(directory)?;
    all.retain(|kernel| *kernel != gone && kernel.join("kernel.json").is_file() && is_ours(kernel));
    write(&all)?;
    Ok(all.into_iter().collect())
}

fn listed() -> Result<BTreeSet<PathBuf>> {
    let text = text(&cache()?.join(LIST)).unwrap_or_default();
    Ok(text.lines().map(PathBuf::from).collect())
}

fn write(all: &BTreeSet<PathBuf>) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(cache()?)?;
    for kernel in all {
        writeln!(file, "{}", kernel.display())?;
    }
    file.persist(cache()?.join(LIST))?;
    Ok(())
}
