//! The program with the prelude built for cells, once for all tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The cache directory of the prelude built for tests, inside the target directory.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// `dam` with the environment for notebooks.
pub fn dam(directory: &Path) -> Command {
    let mut command = crate::common::dam(directory);
    command.env("XDG_CACHE_HOME", cache()).env_remove("RUST_BACKTRACE");
    command
}

/// Builds the prelude for cells once; the lock file makes tests in other processes wait.
pub fn prepare() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::fs::create_dir_all(cache()).unwrap();
        let lock = std::fs::File::create(cache().join("lock")).unwrap();
        lock.lock().unwrap();
        let place = tempfile::tempdir().unwrap();
        let output =
            dam(place.path()).args(["jupyter", "install", "--prefix", "."]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}
