//! Selects the side files of a checkpoint, those next to the weights, that are copied when a merge
//! is written.
//!
//! A merge copies every file of a source except weights, their index, training state, data, and
//! files that the merge itself writes (config.json, README.md). Files that belong together form a
//! group, and a group comes from one source. Code (`*.py`) is copied but never executed.
//!
//! Sources are not trusted: names must be plain, links may not leave the checkpoint (or the blobs
//! of the hub cache), and sizes, depth and counts are limited.

mod group;
mod record;
mod walk;

pub(crate) use group::{
    Group, MAX_FILE_BYTES, MAX_SIDE_BYTES, MAX_SIDE_FILES, WHOLE_GROUPS, is_vocabulary, needed,
};
pub(crate) use record::{record, recorded};
pub(crate) use walk::SideFiles;
