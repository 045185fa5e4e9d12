//! Kernels that tests use one after another: a kernel takes seconds to start and to get to know the
//! prelude, and few tests need one of their own.
//!
//! A test takes an idle kernel, or starts one, and leaves it at its end. The next test gets it
//! without variables, items, cells' process and files of the one before. The kernel of a test that
//! failed is not used again.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::kernel::Kernel;

/// A kernel with its directory, and the test that used it last.
struct Used {
    kernel: Kernel,
    directory: TempDir,
    by: String,
}

/// Kernels that no test is using. Kernels end with the process that started them.
static IDLE: Mutex<Vec<Used>> = Mutex::new(Vec::new());

/// A kernel for the time of one test.
pub struct Shared(Option<Used>);

/// A kernel without state: an idle one that is cleared, or a new one.
pub fn shared() -> Shared {
    let by = std::thread::current().name().unwrap_or_default().to_owned();
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let Some(Used { mut kernel, directory, by: last }) = idle else {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let kernel = Kernel::start(directory.path());
        return Shared(Some(Used { kernel, directory, by }));
    };
    let cleared = kernel.run(":clear");
    assert_eq!(cleared.status, "ok", "the kernel that `{last}` left: {cleared:?}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "the files that `{last}` left: {left:?}");
    Shared(Some(Used { kernel, directory, by }))
}

impl Deref for Shared {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        &self.0.as_ref().expect("there until it is dropped").kernel
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Kernel {
        &mut self.0.as_mut().expect("there until it is dropped").kernel
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(Used { directory, .. }) = &self.0 {
            for entry in std::fs::read_dir(directory.path()).into_iter().flatten().flatten() {
                // What stays is reported to the next test.
                let _ = match entry.path() {
                    path if path.is_dir() => std::fs::remove_dir_all(path),
                    path => std::fs::remove_file(path),
                };
            }
        }
        if !std::thread::panicking() {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
        }
    }
}
