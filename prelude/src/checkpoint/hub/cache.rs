//! The cache: where it is, and what it holds.

use std::path::{Path, PathBuf};

use super::contained::{Contained, explain};
use super::reference::HubRef;
use crate::checkpoint::storage::read_file;
use crate::error::Result;

/// The maximum size in bytes of a small cache file: a commit, a token.
const MAX_SMALL_FILE_BYTES: u64 = 1 << 12;

/// The value of an environment variable, if set and not empty.
pub(super) fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// The user's Hugging Face directory, and the cache.
pub(super) fn folders() -> Option<(PathBuf, PathBuf)> {
    let home = set("HF_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("huggingface")));
    let home = home.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/huggingface")))?;
    let named = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
    let cache = named.map_or_else(|| home.join("hub"), PathBuf::from);
    Some((home, cache))
}

/// The names of cached models or datasets, `org/name`, sorted, from the first `limit` directories.
pub(crate) fn cached_names(are_datasets: bool, limit: usize) -> Vec<String> {
    let prefix = if are_datasets { "datasets--" } else { "models--" };
    let entries = folders()
        .and_then(|(_, cache)| std::fs::read_dir(cache).ok())
        .into_iter()
        .flatten()
        .flatten();
    let name = |entry: std::fs::DirEntry| {
        let folder = entry.file_name().to_str()?.strip_prefix(prefix)?.replace("--", "/");
        HubRef::parse(&folder, are_datasets)
            .filter(|reference| reference.file.is_none())
            .map(|reference| reference.repo)
    };
    let mut names: Vec<String> = entries.take(limit).filter_map(name).collect();
    names.sort();
    names
}

/// The text of a small file; `None` if it cannot be read.
pub(super) fn read_small_file(path: &Path) -> Option<String> {
    Some(String::from_utf8(read_file(path, MAX_SMALL_FILE_BYTES).ok()?).ok()?.trim().to_owned())
}

/// Returns an error if the file `name` of a snapshot is a link that leaves its repository's
/// directory. A missing file is not an error.
pub(crate) fn within(directory: &Path, name: &str) -> Result<()> {
    let folder = directory.parent().and_then(Path::parent).unwrap_or(directory);
    let found = Contained::open(folder)
        .and_then(|all| all.find(&directory.strip_prefix(folder).unwrap_or(directory).join(name)));
    match found {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let repo = folder.file_name().unwrap_or_default().to_string_lossy();
            Err(explain(&repo, "read", &directory.join(name), e))
        }
        _ => Ok(()),
    }
}

/// Lists the files below `directory` by relative name, no deeper than datasets nest.
pub(super) fn list(directory: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if !entry.path().is_dir() {
            names.push(name);
        } else if prefix.matches('/').count() < 6 {
            list(&entry.path(), &format!("{name}/"), names);
        }
    }
}
