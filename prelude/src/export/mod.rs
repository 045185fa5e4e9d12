//! A session as a notebook, a script or a Rust program.
//!
//! ```text
//! lines ---- script.rs ---------------> NAME.dam
//! verbs ---- code.rs --- program.rs --> NAME.rs
//!                    --- notebook.rs -> NAME.ipynb
//! ```

mod code;
mod notebook;
mod program;
mod script;

pub use code::Code;
pub(crate) use code::{Block, call, changed, differing, fields, strings};
pub(crate) use notebook::notebook;
pub(crate) use program::program;
pub(crate) use script::script;
