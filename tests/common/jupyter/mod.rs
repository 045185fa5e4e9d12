//! Starts kernels of this program and talks to them as a Jupyter client.
#![allow(unused_imports)]

mod clients;
mod editor;
mod installed;
mod kernel;
mod result;
mod shared;
mod widgets;

pub use installed::{cache, dam, prepare};
pub use kernel::Kernel;
pub use result::CellResult;
pub use shared::shared;
