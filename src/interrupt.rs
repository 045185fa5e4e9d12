//! Ctrl-C: stops training after the current step; again, or when nothing trains, ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

static TRAINING: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// The exit status of a program ended by Ctrl-C.
const STATUS: i32 = 130;

/// Handles Ctrl-C from now on.
pub fn install() {
    // Without a handler Ctrl-C still ends the program, so a failure here loses only the courtesy.
    let _ = ctrlc::set_handler(|| {
        if !TRAINING.load(Ordering::SeqCst) || STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(STATUS);
        }
    });
}

/// While it lives, Ctrl-C asks to stop instead of ending the program.
pub struct Guard;

impl Guard {
    pub fn new() -> Self {
        STOP.store(false, Ordering::SeqCst);
        TRAINING.store(true, Ordering::SeqCst);
        Self
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_stopped(&self) -> bool {
        STOP.load(Ordering::SeqCst)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        TRAINING.store(false, Ordering::SeqCst);
    }
}
