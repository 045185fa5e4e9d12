//! Safetensors files, read and written.

mod read;
mod write;

pub(crate) use read::read_safetensors;
pub(crate) use write::{Checkpoint, Entry};
