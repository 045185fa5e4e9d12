//! Floor 1: find, open, verify and write Hugging Face checkpoints.

mod archive;
mod config;
mod contained;
mod digest;
mod download;
mod encode;
mod files;
pub(crate) mod fuzz;
mod gguf;
mod gguf_tokenizer;
mod hub;
mod lora;
mod other;
mod regular;
mod restack;
mod source;
mod tokenizer;
mod tokenizer_limits;
mod view;
mod vocabulary;
mod write;

/// The name that marks the base model.
pub const BASE: &str = "base";

pub use config::{Activation, Architecture, Attends, Kind, Rope, Scaling, TensorSpec};
pub use regular::{open_file, read_file};
pub use source::Source;
pub use view::View;
pub use vocabulary::Lack;

#[cfg(test)]
pub(crate) use encode::encoded;
pub(crate) use files::{BUILTIN_PREFIX, Bytes, builtin_data, builtin_data_file, builtin_models, map};
pub(crate) use hub::{Hub, Place, Wanted, cached_names};
pub(crate) use restack::Restacked;
pub(crate) use source::{SIDE_FILES, common_dtype, in_one_numbering, mix, split_name, views};
pub(crate) use tokenizer::{Chat, tokenizing};
pub(crate) use view::TILE;
pub use write::Written;
pub(crate) use write::{Checkpoint, Content, Entry, Values, new_file, replace_directory, replace_file, write_file};
