//! The tensors of a checkpoint by name: their names, kinds and layers, and quantized weights.

mod archive;
mod names;
mod quantized;
mod stacks;
pub(crate) mod unsupported_family;

pub(crate) use archive::{Archive, Buffer};
pub(crate) use names::{Runnable, TensorNames};
pub(crate) use quantized::prepare;
pub(crate) use stacks::{KeyPath, Stack, Stacks, count_paths};
