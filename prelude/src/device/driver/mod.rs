//! The NVIDIA driver's library, loaded when a GPU is first asked for.
//!
//! candle's bindings link it, so that a program would not start on a machine without the driver
//! ([candle issue 3900](https://github.com/huggingface/candle/issues/3900)). Here, each function
//! of the library is a jump through a table. The linker then needs nothing of the library and
//! leaves it out, and [`load`] fills the table.

mod functions;

use std::error::Error;
use std::ffi::c_int;
use std::sync::atomic::Ordering;

use libloading::Library;

use functions::{NAMES, TABLE};

/// The library of the driver, under the name that does not need a CUDA toolkit.
const LIBRARY: &str = "libcuda.so.1";

/// Stands for a function that the driver lacks, or for all before [`load`].
extern "C" fn absent() -> c_int {
    const CUDA_ERROR_NOT_FOUND: c_int = 500;
    CUDA_ERROR_NOT_FOUND
}

/// Loads the library of the driver. It stays loaded.
///
/// # Errors
/// It is not installed.
pub(super) fn load() -> Result<(), String> {
    // SAFETY: the library may be loaded at any time: its initialisers need nothing.
    let driver = unsafe { Library::new(LIBRARY) }
        .map_err(|error| format!("cannot load the NVIDIA driver: {}", cause(&error)))?;
    for (name, function) in NAMES.iter().zip(&TABLE) {
        // SAFETY: only the address is read; a caller gives it the signature.
        if let Ok(found) = unsafe { driver.get::<unsafe extern "C" fn()>(*name) } {
            function.store(*found as *mut (), Ordering::Relaxed);
        }
    }
    std::mem::forget(driver);
    Ok(())
}

/// The system's reason for `error`, without the redundant part: a note has one line.
fn cause(error: &dyn Error) -> String {
    let text = error.source().unwrap_or(error).to_string();
    text.trim_end_matches(": No such file or directory").to_owned()
}
