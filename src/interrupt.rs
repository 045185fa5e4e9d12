//! Ctrl-C: while a verb runs it asks to stop, which training does after the current step; a second
//! one, or one while nothing runs, ends the program, unless it is an interactive session.

use std::sync::atomic::{AtomicBool, Ordering};

use dam_prelude::interrupt;

use crate::progress::say;

static RUNNING: AtomicBool = AtomicBool::new(false);

/// Whether the program goes on whatever happens.
static STAYS: AtomicBool = AtomicBool::new(false);

/// The exit status of a program ended by Ctrl-C.
const STATUS: i32 = 130;

/// Handles Ctrl-C from now on.
pub fn install() {
    // Without a handler Ctrl-C still ends the program, so a failure here loses only the courtesy.
    let _ = ctrlc::set_handler(|| {
        let (runs, stays) = (RUNNING.load(Ordering::SeqCst), STAYS.load(Ordering::SeqCst));
        if stays {
            if runs {
                interrupt::request();
                say("finishing what is under way; Ctrl-\\ ends the program");
            }
            return;
        }
        if !runs || interrupt::request() {
            std::process::exit(STATUS);
        }
        say("finishing what is under way; Ctrl-C again ends the program");
    });
}

/// From now on Ctrl-C stops what runs, and never the program.
pub fn stay() {
    STAYS.store(true, Ordering::SeqCst);
}

/// While it lives a verb runs, and Ctrl-C asks it to stop instead of ending the program.
pub struct Running;

impl Running {
    pub fn new() -> Self {
        interrupt::clear();
        RUNNING.store(true, Ordering::SeqCst);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::SeqCst);
    }
}
