//! The Jupyter kernel through Jupyter's protocol.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod cells;
mod clients;
mod controls;
mod crates;
mod desk;
mod editor;
mod errors;
mod hostile;
mod interrupts;
mod processes;
mod verbs;

use common::jupyter::{Kernel, shared};

/// A kernel that no other test uses: for tests that change or measure the kernel itself.
fn own() -> (Kernel, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Kernel::start(directory.path()), directory)
}

const MERGE: &str =
    "let dam = load([\"builtin:japanese\", \"builtin:math\"])?.wrap(Columns::default())?;";
