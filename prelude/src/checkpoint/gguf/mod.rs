//! GGUF files, read and written.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod container;
mod metadata;
mod read;
mod read_config;
mod read_tokenizer;
mod write;
mod write_keys;
mod write_tokenizer;

pub(crate) use read::Gguf;
pub(crate) use write::{GgufFile, GgufTensor, TensorData, encoding};
pub(crate) use write_keys::GgufKeys;
pub(crate) use write_tokenizer::{KeyValues, TokenizerInput, token_id_keys, tokenizer_keys};
