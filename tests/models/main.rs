//! Sources: every format, family, adapter and tokenizer is read and written as elsewhere.

#[path = "../common/mod.rs"]
mod common;

mod adapter;
mod adapters;
mod config;
mod families;
mod formats;
mod gguf;
mod gguf_out;
mod lora;
mod names;
mod rows;
mod side_files;
mod vocabulary;
mod wrappers;
