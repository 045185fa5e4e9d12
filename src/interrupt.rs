//! Ctrl-C handling. While a verb runs, Ctrl-C requests a stop: training stops within one layer of
//! the current step, and the line or script ends. A second Ctrl-C, or one while nothing runs, ends
//! the program unless it is an interactive session.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use dam_prelude::interrupt;

use crate::terminal::progress::print_above;

static RUNNING: AtomicBool = AtomicBool::new(false);

/// Whether the session is interactive, so that Ctrl-C never ends the program.
static INTERACTIVE: AtomicBool = AtomicBool::new(false);

/// The exit status of a program interrupted by Ctrl-C.
pub const STATUS: u8 = 130;

pub use dam_prelude::interrupt::{clear, requested};

/// Installs the handler of Ctrl-C.
pub fn install() {
    // Without a handler Ctrl-C still ends the program, so failure is tolerable.
    let _ = ctrlc::set_handler(|| {
        let (running, interactive) =
            (RUNNING.load(Ordering::SeqCst), INTERACTIVE.load(Ordering::SeqCst));
        if interactive {
            // Also between the statements of a line: the rest of it does not run.
            interrupt::request();
            if running {
                if let Some(stop) = &*STOP_HOOK.lock().unwrap_or_else(PoisonError::into_inner) {
                    return stop();
                }
                print_above("stopping; Ctrl-\\ ends the program");
            }
            return;
        }
        if !running || interrupt::request() {
            std::process::exit(STATUS.into());
        }
        print_above("stopping; Ctrl-C again ends the program");
    });
}

/// Makes Ctrl-C stop the running verb but never the program.
pub fn set_interactive() {
    INTERACTIVE.store(true, Ordering::SeqCst);
}

/// Called at Ctrl-C while something runs.
static STOP_HOOK: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Keeps a stop hook installed until it is dropped.
#[cfg(feature = "jupyter")]
pub struct StopHook;

/// Calls `stop` at Ctrl-C while something runs, until the returned guard is dropped.
#[cfg(feature = "jupyter")]
pub fn on_stop(stop: impl Fn() + Send + 'static) -> StopHook {
    *STOP_HOOK.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(stop));
    StopHook
}

#[cfg(feature = "jupyter")]
impl Drop for StopHook {
    fn drop(&mut self) {
        *STOP_HOOK.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A guard: while it exists, Ctrl-C requests a stop instead of ending the program. In an
/// interactive session it also turns echo off, so that keys do not appear in the progress display.
pub struct RunGuard {
    before: Option<libc::termios>,
}

impl RunGuard {
    /// For a task of its own: clears an earlier stop request.
    #[cfg(feature = "jupyter")]
    pub fn new() -> Self {
        clear();
        Self::statement()
    }

    /// For a statement of a line or script, which an earlier stop request ends too.
    pub fn statement() -> Self {
        RUNNING.store(true, Ordering::SeqCst);
        Self { before: if INTERACTIVE.load(Ordering::SeqCst) { disable_echo() } else { None } }
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::SeqCst);
        if let Some(before) = &self.before {
            // SAFETY: `before` is a valid termios; failure is harmless.
            unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before) };
        }
    }
}

/// Turns echo off; returns the previous settings.
fn disable_echo() -> Option<libc::termios> {
    // SAFETY: a termios of zeros is valid, and both calls get pointers to live values.
    unsafe {
        let mut before = std::mem::zeroed::<libc::termios>();
        if libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) != 0 {
            return None;
        }
        let hidden = libc::termios { c_lflag: before.c_lflag & !libc::ECHO, ..before };
        (libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const hidden) == 0)
            .then_some(before)
    }
}
