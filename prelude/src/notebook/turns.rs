//! Cells and controls take turns: what a control does begins between cells, so that a cell sees a
//! session that nothing else changes. A cell does not wait for controls.
//!
//! The stop flag belongs to whoever has the turn: a cell clears it when it begins, and a control
//! only while no cell runs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::interrupt;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Whether a cell is running.
    pub cell_runs: bool,
    /// The number of cells that have ended.
    pub ended: u64,
}

impl Turn {
    /// Whose turn it is now.
    pub fn now() -> Self {
        *turn()
    }
}

static TURN: Mutex<Turn> = Mutex::new(Turn { cell_runs: false, ended: 0 });
static CHANGED: Condvar = Condvar::new();

fn turn() -> MutexGuard<'static, Turn> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cell begins.
pub(super) fn begin_cell() {
    let mut turn = turn();
    turn.cell_runs = true;
    // Under the lock: a control may be about to set it.
    interrupt::clear();
    drop(turn);
    CHANGED.notify_all();
}

/// The cell has ended.
pub(super) fn end_cell() {
    let mut turn = turn();
    *turn = Turn { cell_runs: false, ended: turn.ended + 1 };
    drop(turn);
    CHANGED.notify_all();
}

/// Whether a cell is running.
pub(super) fn is_cell_running() -> bool {
    turn().cell_runs
}

/// Waits for its turn, and begins the next thing that a control does, for which it clears the stop
/// flag. Controls do one thing at a time: until the guard is dropped, no other begins.
pub(super) fn begin_work() -> MutexGuard<'static, ()> {
    static WORK: Mutex<()> = Mutex::new(());
    let work = WORK.lock().unwrap_or_else(PoisonError::into_inner);
    // A cell may have begun since.
    wait(None, |turn| (!turn.cell_runs).then(interrupt::clear));
    work
}

/// Stops what the control at work is doing, because its result is no longer needed.
pub(super) fn supersede() {
    let turn = turn();
    if !turn.cell_runs {
        interrupt::request();
    }
}

/// Notes that something has changed that [`wait`] waits for.
pub(super) fn notify() {
    drop(turn());
    CHANGED.notify_all();
}

/// Waits until `ready` returns something, at most `timeout`. It is called at once and after every
/// change, under the lock, so it returns at once.
pub(super) fn wait<T>(
    timeout: Option<Duration>,
    mut ready: impl FnMut(Turn) -> Option<T>,
) -> Option<T> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    let mut turn = turn();
    loop {
        if let Some(found) = ready(*turn) {
            return Some(found);
        }
        turn = match end.map(|end| end.saturating_duration_since(Instant::now())) {
            None => CHANGED.wait(turn).unwrap_or_else(PoisonError::into_inner),
            Some(Duration::ZERO) => return None,
            Some(left) => {
                CHANGED.wait_timeout(turn, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}
