//! `dam kernel`: a Jupyter kernel on evcxr whose cells have the prelude in scope; also the engine
//! of the Rust prompt.
//!
//! ```text
//! Jupyter == proxy ==> server -> cell -> engine (evcxr) == markers ==> relay == pipes ==> cells' process
//!    ^                   |         \--- link <== lines of JSON ======/                       |  the prelude:
//!    \------ output <----/                \=========== stops and verbs =======================/  notebook/
//! ```

mod cargo;
mod cells;
mod comms;
mod environment;
mod files;
mod jupyter;
mod process;
mod rust_session;
mod sockets;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

pub use environment::forget_cargo;
pub use jupyter::command::{Jupyter, jupyter};
pub use rust_session::RustSession;

use cargo::{direct, wrapper};
use process::link::SOCKET;
use process::relay;
use sockets::server;

/// Runs this process as the wrapper of cargo or rustc, the relay or the cells' process, if it was
/// started as one. Then it returns the exit code or does not return.
pub fn hook() -> Option<ExitCode> {
    if wrapper::is_cargo() {
        return Some(wrapper::cargo());
    }
    if direct::is_rustc() {
        return Some(direct::rustc());
    }
    if relay::is_relay() {
        return Some(relay::relay());
    }
    evcxr::runtime_hook();
    None
}

/// Runs the kernel described by a connection file until shutdown.
///
/// # Errors
/// The file cannot be read, or a port is in use.
pub fn kernel(connection_file: &Path) -> Result<()> {
    let directory = files::own_directory()?;
    wrapper::install_wrapper(directory.path(), &directory.path().join(SOCKET))?;
    server::serve(connection_file, directory.path())
}
