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
mod jupyter;
mod process;
mod rust_session;
mod sockets;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use dam_prelude::checkpoint::read_file;

pub use jupyter::command::{Jupyter, jupyter};
pub use rust_session::RustSession;

use cargo::wrapper;
use process::relay;
use sockets::server;

/// Runs this process as the cargo wrapper, the relay or the cells' process, if it was started as
/// one. Then it returns the exit code or does not return.
pub fn hook() -> Option<ExitCode> {
    if wrapper::is_cargo() {
        return Some(wrapper::cargo());
    }
    if relay::is_relay() {
        return Some(relay::relay());
    }
    evcxr::runtime_hook();
    None
}

/// Removes the environment variables that cargo sets for programs that it runs: they would change
/// the environment of cell builds, and cargo would rebuild everything.
///
/// Must be called while no other thread reads the environment except through std.
pub fn forget_cargo() {
    let prefixes = [
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_",
        "CARGO_TARGET_TMPDIR",
        "OUT_DIR",
    ];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
        {
            // SAFETY: as documented, other threads read the environment only through std, whose
            // lock `remove_var` takes.
            unsafe { std::env::remove_var(name) };
        }
    }
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
    wrapper::install_wrapper(directory.path(), &directory.path().join(server::SOCKET))?;
    server::serve(connection_file, directory.path())
}
