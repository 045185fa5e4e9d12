//! Layer 1: find, open, verify and write Hugging Face checkpoints.

mod adapter;
mod archive;
mod chat;
mod config;
mod config_differences;
mod contained;
mod digest;
mod download;
mod encode;
mod extra_files;
mod files;
mod float8;
pub(crate) mod fuzz;
mod gguf;
mod gguf_keys;
mod gguf_tokenizer;
mod gguf_vocabulary;
mod gguf_write;
mod hub;
mod mapped;
mod names;
mod pickle;
mod quantized;
mod regular_file;
mod replace;
mod restack;
mod side_files;
mod source;
mod stacks;
mod tokenizer;
mod tokenizer_limits;
mod torch;
mod unsupported_family;
mod view;
mod vocabulary;
mod write;
mod written;

/// The name of the base model.
pub const BASE: &str = "base";

pub use config::{
    Activation, Architecture, Kind, LayerAttention, Norms, Pairs, QkNorm, Rope, Scaling, TensorSpec,
};
pub use regular_file::{open_file, open_to_write, private_directory, read_file};
pub(crate) use side_files::{
    Group, MAX_SIDE_BYTES, MAX_SIDE_FILES, SideFiles, WHOLE_GROUPS, is_vocabulary, record,
};
pub use source::Source;
pub use view::View;
pub use vocabulary::MissingTokens;

pub(crate) use archive::Buffer;
pub(crate) use chat::Chat;
pub(crate) use config_differences::ConfigDifference;
pub(crate) use encode::Encoding;
#[cfg(test)]
pub(crate) use encode::encoded;
pub(crate) use files::{
    BUILTIN_PREFIX, Bytes, builtin_data, builtin_data_file, builtin_models, map,
};
pub(crate) use gguf_keys::GgufKeys;
pub(crate) use gguf_vocabulary::{KeyValues, TokenizerInput, token_id_keys, tokenizer_keys};
pub(crate) use gguf_write::{GgufFile, GgufTensor, TensorData, encoding};
pub(crate) use hub::{Hub, HubRef, SnapshotKind, cached_names};
pub(crate) use mapped::Stamp;
pub(crate) use replace::{fill_file, new_file, replace_directory, replace_file};
pub(crate) use restack::Restacked;
pub(crate) use source::{common_dtype, hash, mix, split_name, views, with_shared_numbering};
pub(crate) use stacks::{Stack, Stacks};
pub(crate) use tokenizer::{BoundedTokenizer, guard_tokenizer};
pub(crate) use unsupported_family::OUTPUT;
pub(crate) use view::TILE;
pub(crate) use vocabulary::{NO_ROW, Numbering, Renumbered, extend};
pub(crate) use write::{Checkpoint, Content, Entry, Values, write_file};
pub use written::{RetainedShare, Written};
