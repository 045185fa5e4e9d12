//! `dam kernel`: a Jupyter kernel whose cells have the prelude in scope, over evcxr; and the same at a prompt.
//!
//! ```text
//! Jupyter == five sockets ==> server -> cell -> engine (evcxr) == marks ==> between == pipes ==> cells' process
//!    ^                          |         \--- link <== lines of JSON ======/                        |  the prelude:
//!    \------ output <-----------/                \=========== stops and verbs ========================/  notebook/
//! ```

mod apart;
mod between;
mod building;
mod cargo;
mod cell;
mod clients;
mod code;
mod command;
mod complete;
mod doctor;
mod engine;
mod failure;
mod install;
mod installing;
mod link;
mod lock;
mod members;
mod output;
mod pace;
mod parameters;
mod peer;
mod places;
mod prepare;
mod prompt;
mod registry;
mod report;
mod server;
mod stdin;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use dam_prelude::checkpoint::read_file;

pub use command::{Jupyter, jupyter};
pub use prompt::Rust;

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

/// Forgets what cargo tells the programs that it runs of their own build: to the builds of cells it would be news, after
/// which they begin anew.
///
/// Called while no other thread runs.
pub fn forget_cargo() {
    let told =
        ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|prefix| name.starts_with(prefix))) {
            // SAFETY: no other thread runs.
            unsafe { std::env::remove_var(name) };
        }
    }
}

/// A directory for sockets that nobody else may enter, whatever this process leaves to others of what it makes.
///
/// # Errors
/// Nowhere to make it.
fn own_directory() -> Result<tempfile::TempDir> {
    /// The longest name of a directory in which a socket may have its own.
    const LONGEST: usize = 70;
    let only_me = std::fs::Permissions::from_mode(0o700);
    let mut place = std::env::temp_dir();
    if place.as_os_str().len() > LONGEST {
        place = "/tmp".into();
    }
    let directory = tempfile::Builder::new().prefix("dam-").permissions(only_me.clone()).tempdir_in(place)?;
    std::fs::set_permissions(directory.path(), only_me)?;
    Ok(directory)
}

/// The text of a regular file, of a size that is read whole.
///
/// # Errors
/// Something else than such a file.
fn text(file: &Path) -> dam_prelude::Result<String> {
    /// Bytes of the longest.
    const LONGEST: u64 = 64 << 20;
    let invalid = |error| dam_prelude::Error::Io {
        action: "read",
        path: file.into(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    };
    String::from_utf8(read_file(file, LONGEST)?).map_err(invalid)
}

/// Runs the kernel that a connection file describes, until it is shut down.
///
/// # Errors
/// A file that cannot be read, ports that are taken.
pub fn kernel(connection_file: &Path) -> Result<()> {
    let directory = own_directory()?;
    cargo::stand_in(directory.path(), &directory.path().join(server::SOCKET))?;
    server::serve(connection_file, directory.path())
}
