//! Ctrl-C: while a verb runs it requests a stop, which training heeds within a layer of its step, and which ends the line
//! or script that the verb stands in; a second one, or one while nothing runs, ends the program, unless it is an
//! interactive session.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use dam_prelude::interrupt;

use crate::progress::say;

static RUNNING: AtomicBool = AtomicBool::new(false);

/// Whether the program goes on whatever happens.
static STAYS: AtomicBool = AtomicBool::new(false);

/// The exit status of a program ended by Ctrl-C.
pub const STATUS: u8 = 130;

pub use dam_prelude::interrupt::{clear, requested};

/// Handles Ctrl-C from now on.
pub fn install() {
    // Without a handler Ctrl-C still ends the program, so a failure here loses only the courtesy.
    let _ = ctrlc::set_handler(|| {
        let (runs, stays) = (RUNNING.load(Ordering::SeqCst), STAYS.load(Ordering::SeqCst));
        if stays {
            // Between the statements of a line too: the rest of it does not run.
            interrupt::request();
            if runs {
                if let Some(stop) = &*STOPS.lock().unwrap_or_else(PoisonError::into_inner) {
                    return stop();
                }
                say("stopping what is under way; Ctrl-\\ ends the program");
            }
            return;
        }
        if !runs || interrupt::request() {
            std::process::exit(STATUS.into());
        }
        say("stopping what is under way; Ctrl-C again ends the program");
    });
}

/// From now on Ctrl-C stops what runs, and never the program.
pub fn stay() {
    STAYS.store(true, Ordering::SeqCst);
}

/// What else is to be stopped.
static STOPS: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Until its end Ctrl-C stops something else too.
#[cfg(feature = "jupyter")]
pub struct Stop;

/// Calls `stop` at Ctrl-C while something runs.
#[cfg(feature = "jupyter")]
pub fn on_stop(stop: impl Fn() + Send + 'static) -> Stop {
    *STOPS.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(stop));
    Stop
}

#[cfg(feature = "jupyter")]
impl Drop for Stop {
    fn drop(&mut self) {
        *STOPS.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// While it lives a verb runs, and Ctrl-C asks it to stop instead of ending the program. In an interactive session keys
/// are not shown meanwhile, as they would stand in what is drawn.
pub struct Running {
    shown: Option<libc::termios>,
}

impl Running {
    /// Something of its own: a stop that was requested before does not count.
    #[cfg(feature = "jupyter")]
    pub fn new() -> Self {
        clear();
        Self::statement()
    }

    /// A statement of a line or script, which a stop requested during another statement ends as well.
    pub fn statement() -> Self {
        RUNNING.store(true, Ordering::SeqCst);
        Self { shown: if STAYS.load(Ordering::SeqCst) { hide_keys() } else { None } }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::SeqCst);
        if let Some(shown) = &self.shown {
            // SAFETY: a call on standard input; that it fails changes nothing.
            unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, shown) };
        }
    }
}

/// Has the terminal show no keys; gives what it did before.
fn hide_keys() -> Option<libc::termios> {
    // SAFETY: all of it is plain numbers, which the call fills; it is on standard input.
    unsafe {
        let mut before = std::mem::zeroed::<libc::termios>();
        if libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) != 0 {
            return None;
        }
        let hidden = libc::termios { c_lflag: before.c_lflag & !libc::ECHO, ..before };
        (libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const hidden) == 0).then_some(before)
    }
}
