//! `dam kernel`: a Jupyter kernel on evcxr whose cells have the prelude in scope; also the engine
//! of the Rust prompt.
//!
//! ```text
//! Jupyter == proxy ==> server -> cell -> engine (evcxr) == markers ==> relay == pipes ==> cells' process
//!    ^                   |         \--- link <== lines of JSON ======/                       |  the prelude:
//!    \------ output <----/                \=========== stops and verbs =======================/  notebook/
//! ```

mod build;
mod cargo;
mod cell;
mod code;
mod command;
mod complete;
mod doctor;
mod engine;
mod environment;
mod failure;
mod install;
mod install_progress;
mod link;
mod locate;
mod lock;
mod members;
mod output;
mod parameters;
mod peer;
mod prepare;
mod proxy;
mod rate_limit;
mod registry;
mod relay;
mod report;
mod rust_session;
mod separate;
mod server;
mod stdin;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use dam_prelude::checkpoint::read_file;

pub use command::{Jupyter, jupyter};
pub use environment::forget_cargo;
pub use rust_session::RustSession;

/// Runs this process as the cargo wrapper, the relay or the cells' process, if it was started as
/// one. Then it returns the exit code or does not return.
pub fn hook() -> Option<ExitCode> {
    if cargo::is_cargo() {
        return Some(cargo::cargo());
    }
    if relay::is_relay() {
        return Some(relay::relay());
    }
    evcxr::runtime_hook();
    None
}

/// A directory for sockets that only the owner can enter, whatever the umask.
///
/// # Errors
/// The directory cannot be created.
fn own_directory() -> Result<tempfile::TempDir> {
    /// The longest path of a directory that leaves room for the name of a socket.
    const LONGEST: usize = 70;
    let only_me = std::fs::Permissions::from_mode(0o700);
    let mut place = std::env::temp_dir();
    if place.as_os_str().len() > LONGEST {
        place = "/tmp".into();
    }
    let directory =
        tempfile::Builder::new().prefix("dam-").permissions(only_me.clone()).tempdir_in(place)?;
    std::fs::set_permissions(directory.path(), only_me)?;
    Ok(directory)
}

/// The text of a regular file of limited size.
///
/// # Errors
/// It is not such a file, or not UTF-8.
fn text(file: &Path) -> dam_prelude::Result<String> {
    /// The largest file, in bytes.
    const LONGEST: u64 = 64 << 20;
    let invalid = |error| dam_prelude::Error::Io {
        action: "read",
        path: file.into(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    };
    String::from_utf8(read_file(file, LONGEST)?).map_err(invalid)
}

/// Runs the kernel described by a connection file until shutdown.
///
/// # Errors
/// The file cannot be read, or a port is in use.
pub fn kernel(connection_file: &Path) -> Result<()> {
    let directory = own_directory()?;
    cargo::install_wrapper(directory.path(), &directory.path().join(server::SOCKET))?;
    server::serve(connection_file, directory.path())
}
