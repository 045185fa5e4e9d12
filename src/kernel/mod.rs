//! `dam kernel`: a Jupyter kernel whose cells have the prelude in scope, over evcxr.
//!
//! ```text
//! Jupyter == five sockets ==> server -> cell -> engine (evcxr) == marks ==> between == pipes ==> cells' process
//!    ^                          |         \--- link <== lines of JSON ======/                        |  the prelude:
//!    \------ output <-----------/                \=========== stops and verbs ========================/  notebook/
//! ```

mod between;
mod cargo;
mod cell;
mod code;
mod command;
mod doctor;
mod engine;
mod install;
mod link;
mod output;
mod prepare;
mod server;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

pub use command::{Jupyter, jupyter};

/// Does what this process is for, if evcxr started it: running cells, or standing between. Does not come back then,
/// or gives how it ended.
pub fn hook() -> Option<ExitCode> {
    if cargo::is_cargo() {
        return Some(cargo::cargo());
    }
    if between::is_between() {
        return Some(between::between());
    }
    evcxr::runtime_hook();
    None
}

/// Runs the kernel that a connection file describes, until it is shut down.
///
/// # Errors
/// A file that cannot be read, ports that are taken.
pub fn kernel(connection_file: &Path) -> Result<()> {
    let directory = tempfile::tempdir()?;
    cargo::stand_in(directory.path())?;
    server::serve(connection_file, &directory.path().join("kernel"))
}
