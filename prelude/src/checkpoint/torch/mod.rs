//! PyTorch files: tensors described by a pickle, which is read as data and never executed.

mod pickle;
mod read;

pub(crate) use read::read_torch;
