//! Where the prompt keeps its files.

use std::path::PathBuf;

/// The directory for state between runs: the line history and the autosaves.
pub fn state_directory() -> Option<PathBuf> {
    let set =
        std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set.or_else(|| Some(std::env::home_dir()?.join(".local").join("state")))?;
    Some(state.join("dam"))
}
