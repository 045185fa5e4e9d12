//! Layer 1: find, open, verify and write Hugging Face checkpoints.
//!
//! From the bottom up; each imports only from those above it in this table:
//!
//! | room | contents |
//! | --- | --- |
//! | `storage/` | files, memory maps, and views that decode a stored tensor |
//! | `config/` | config.json: the architecture of a decoder |
//! | `side_files/` | which files next to the weights are copied |
//! | `tensors/` | the tensors of a checkpoint by name |
//! | `tokenizer/` | tokenizers and chat templates |
//! | `hub/` | downloads, and the cache |
//! | `write/` | encoding, and replacing files atomically |
//! | `safetensors/`, `torch/`, `gguf/` | one format each |
//! | `weight_file.rs` | one file of weights in any format |
//! | `adapter/` | LoRA adapters |
//! | `source/` | a source: opening, comparing, numbering and stacking |

mod adapter;
mod config;
pub(crate) mod fuzz;
mod gguf;
mod hub;
mod safetensors;
mod side_files;
mod source;
mod storage;
mod tensors;
mod tokenizer;
mod torch;
mod weight_file;
mod write;

/// The name of the base model.
pub const BASE: &str = "base";

pub use config::{
    Activation, Architecture, Kind, LayerAttention, Norms, Pairs, QkNorm, Rope, Scaling, TensorSpec,
};
pub use source::{MissingTokens, Source};
pub use storage::{View, open_file, open_to_write, private_directory, read_file};
pub use write::{RetainedShare, Written};

pub(crate) use gguf::{
    GgufFile, GgufKeys, GgufTensor, KeyValues, TensorData, TokenizerInput, encoding, token_id_keys,
    tokenizer_keys,
};
pub(crate) use hub::{Hub, HubRef, SnapshotKind, cached_names};
pub(crate) use safetensors::{Checkpoint, Entry};
pub(crate) use side_files::{
    Group, MAX_SIDE_BYTES, MAX_SIDE_FILES, SideFiles, WHOLE_GROUPS, is_vocabulary, record,
};
pub(crate) use source::{
    ConfigDifference, DEFAULT_RESERVE, LAYERS_AHEAD, NO_ROW, Numbering, Renumbered, Restacked,
    capacity, common_dtype, disk_speed, extend, keep_in_memory, make_room, passing_bytes,
    split_name, views, with_shared_numbering,
};
pub(crate) use storage::{
    BUILTIN_PREFIX, Bytes, Stamp, TILE, builtin_data, builtin_data_file, builtin_documents,
    builtin_models, hash, map, mix,
};
pub(crate) use tensors::unsupported_family::OUTPUT;
pub(crate) use tensors::{Buffer, Stack, Stacks};
pub(crate) use tokenizer::{BoundedTokenizer, Chat, guard_tokenizer};
#[cfg(test)]
pub(crate) use write::encoded;
pub(crate) use write::{
    Content, Encoding, Values, fill_file, new_file, replace_directory, replace_file, write_file,
};
