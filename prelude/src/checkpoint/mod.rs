//! Floor 1: find, open, verify and write Hugging Face checkpoints.

mod archive;
mod config;
mod files;
mod source;
mod tokenizer;
mod write;

pub use archive::View;
pub use config::{Architecture, Kind, Rope, Scaling, TensorSpec};
pub use source::Source;

pub(crate) use files::{BUILTIN_PREFIX, builtin_data, builtin_data_file, map};
pub(crate) use source::{SIDE_FILES, mix, views};
pub(crate) use tokenizer::{Chat, tokenizing};
pub use write::Written;
pub(crate) use write::{Checkpoint, replace_directory, replace_file, write_file};
