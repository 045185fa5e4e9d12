//! The stop flag. Long work checks it between steps, and stops without losing results.
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

/// Clears the stop flag before new work starts.
pub fn clear() {
    STOP.store(false, Ordering::SeqCst);
}

/// Whether the stop flag is set.
pub fn requested() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Returns `Break` if the stop flag is set.
pub fn flow() -> ControlFlow<()> {
    if requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Returns an error if the stop flag is set, for work that has no partial result.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted) } else { Ok(()) }
}
