//! Floor 0: the wish to stop. What takes long looks here between its steps, and stops with everything kept.
//!
//! A program sets it from Ctrl-C, a notebook from its stop button.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static STOP: AtomicBool = AtomicBool::new(false);

/// Asks what is under way to stop. Tells whether it was asked before.
pub fn request() -> bool {
    STOP.swap(true, Ordering::SeqCst)
}

/// Takes the wish back, before something else begins.
pub fn clear() {
    STOP.store(false, Ordering::SeqCst);
}

/// Whether what is under way was asked to stop.
pub fn requested() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Goes on, or breaks off where a stop was asked for.
pub fn flow() -> ControlFlow<()> {
    if requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// An error where a stop was asked for: for work that is worth nothing half done.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted) } else { Ok(()) }
}
