//! What the kernel and the processes it starts know of each other and of the system: environment
//! variables and programs.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use anyhow::Result;

/// The environment variable with the path of the real cargo.
pub const REAL: &str = "DAM_CARGO";

/// The environment variable with the path of the kernel's socket, which receives build progress.
pub const SOCKET: &str = "DAM_BUILDS";

/// The environment variable that evcxr sets for its own calls of cargo.
pub const EVCXR: &str = "EVCXR_CORE_EXTERN";

/// The environment variable with the build directory of the cells, which evcxr and its children
/// read.
pub const BUILD_DIRECTORY: &str = "EVCXR_TMPDIR";

/// The environment variable with the real `CARGO_HOME`, which rust-analyzer does not see.
pub const HOME: &str = "DAM_CARGO_HOME";

/// The environment variable with the kernel's value of `RUST_BACKTRACE`, which applies to panics in
/// cells.
pub const BACKTRACE: &str = "DAM_BACKTRACE";

/// Sets a variable.
pub fn set(name: &str, value: impl AsRef<OsStr>) {
    // SAFETY: all Rust code reads the environment through std, whose lock `set_var` takes. The C
    // code of this process that reads it runs within a verb: name resolution when a lookup begins,
    // SQLite when it judges queries, the driver of a GPU when it starts. A kernel's process runs no
    // verbs, and resolves no names after it has opened its sockets. At the Rust prompt the verbs
    // before have ended; only a lookup that timed out may still be waiting for its answer, and it
    // began ten seconds before.
    unsafe { std::env::set_var(name, value) };
}

/// Removes the variables that cargo sets for programs that it runs: they would change the
/// environment of cell builds, and cargo would rebuild everything.
///
/// Must be called while no other thread runs.
pub fn forget_cargo() {
    const PREFIXES: [&str; 7] = [
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_",
        "CARGO_TARGET_TMPDIR",
        "OUT_DIR",
    ];
    for (name, _) in std::env::vars_os() {
        let is_cargos = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if name.to_str().is_some_and(is_cargos) {
            // SAFETY: no other thread runs, as documented.
            unsafe { std::env::remove_var(name) };
        }
    }
}

/// The path of a program on `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// The executable of this process, even if its file has been replaced since the start.
///
/// # Errors
/// The system does not report it.
pub fn program() -> Result<PathBuf> {
    if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        Ok(std::env::current_exe()?)
    }
}

/// The exit status of a program, as the exit code of this one.
pub fn status(ended: std::io::Result<ExitStatus>) -> ExitCode {
    let code = ended.ok().and_then(|status| status.code()).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
