//! Where the bytes of a checkpoint lie, and how they are read: regular files, memory maps, and
//! views that decode a stored tensor to f32.

mod builtin;
mod bytes;
mod change;
mod file_names;
mod float8;
mod hash;
mod mapped;
mod read_ahead;
mod regular_file;
mod view;

pub(crate) use builtin::{
    BUILTIN_PREFIX, builtin_data, builtin_data_file, builtin_documents, builtin_model,
    builtin_models,
};
pub(crate) use bytes::{Bytes, map};
pub(crate) use change::{Change, LowRank, Rows};
pub(crate) use file_names::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, TEMPLATE, TOKENIZER, TOKENIZER_FILES, TOKENIZER_SETTINGS,
    WEIGHTS, is_index,
};
pub(crate) use float8::{Codes, Float8, power};
pub(crate) use hash::{HASHED_BYTES, hash, mix};
pub(in crate::checkpoint) use mapped::Mapped;
pub(crate) use mapped::Stamp;
pub(in crate::checkpoint) use read_ahead::read_ahead;
pub(crate) use regular_file::other_kind;
pub use regular_file::{open_file, open_to_write, private_directory, read_file};
pub use view::View;
pub(crate) use view::{Stored, TILE, deinterleaved, interleaved};
