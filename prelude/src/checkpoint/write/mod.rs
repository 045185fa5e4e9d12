//! Writes checkpoints: values are encoded block by block, and files and directories are replaced
//! atomically.

mod encode;
mod extra_files;
mod replace;
#[allow(clippy::module_inception)]
mod write;
mod written;

pub(crate) use encode::Encoding;
#[cfg(test)]
pub(crate) use encode::encoded;
pub(crate) use replace::{fill_file, new_file, replace_directory, replace_file};
pub(crate) use write::{Checkpoint, Content, Entry, Slot, Values, fill_slots, write_file};
pub use written::{RetainedShare, Written};
