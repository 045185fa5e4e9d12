//! Writes checkpoints: values are encoded block by block, and files and directories are replaced
//! atomically.

mod encode;
mod extra_files;
mod replace;
mod slots;
mod small_file;
mod written;

pub(crate) use encode::Encoding;
#[cfg(test)]
pub(crate) use encode::encoded;
pub(crate) use replace::{fill_file, new_file, replace_directory, replace_file};
pub(crate) use slots::{Content, Slot, Values, fill_slots};
pub(crate) use small_file::write_file;
pub use written::{RetainedShare, Written};
