//! Changes of this process's environment: evcxr, rust-analyzer and the programs they start take
//! their settings from it.

use std::ffi::OsStr;

/// Sets a variable.
pub fn set(name: &str, value: impl AsRef<OsStr>) {
    // SAFETY: all Rust code reads the environment through std, whose lock `set_var` takes. The C
    // code of this process that reads it is name resolution, when a lookup begins. A kernel resolves
    // no names after it has opened its sockets. At the Rust prompt the verbs before have ended; only
    // a lookup that timed out may still be waiting for its answer, and it began ten seconds before.
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
