//! Layer 0: the stop flag. Long operations check it between steps and stop without losing results.
//!
//! A program sets it from Ctrl-C, a notebook from its stop button.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static STOP: AtomicBool = AtomicBool::new(false);

/// Sets the stop flag. Returns whether it was already set.
pub fn request() -> bool {
    STOP.swap(true, Ordering::SeqCst)
}

/// Clears the stop flag before the next operation.
pub fn clear() {
    STOP.store(false, Ordering::SeqCst);
}

/// Whether a stop was requested.
pub fn requested() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Returns `Break` if a stop was requested.
pub fn flow() -> ControlFlow<()> {
    if requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Returns an error if a stop was requested; for operations whose partial results are useless.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted) } else { Ok(()) }
}
