//! The thread that runs the closures of controls, one after another, between cells.
//!
//! A control that has changed again while it waits runs once, with its latest value: slow closures
//! do not pile up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Once, PoisonError};

use crate::notebook::turns::{self, Turn};

/// A control with something to run.
pub(super) trait Run: Send + Sync {
    fn run(&self);
}

/// The controls that have changed, in order, each once.
static WAITING: Mutex<VecDeque<Arc<dyn Run>>> = Mutex::new(VecDeque::new());

/// Runs `control` as soon as no cell runs.
pub(super) fn enqueue(control: Arc<dyn Run>) {
    static START: Once = Once::new();
    START.call_once(|| {
        // Without the thread, controls only display values.
        let _ = std::thread::Builder::new().name("controls".into()).spawn(run_all);
    });
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    if !waiting.iter().any(|other| Arc::ptr_eq(other, &control)) {
        waiting.push_back(control);
    }
    drop(waiting);
    turns::notify();
}

fn run_all() {
    let next = |turn: Turn| {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.cell_runs { None } else { waiting.pop_front() }
    };
    while let Some(control) = turns::wait(None, next) {
        let _work = turns::begin_work();
        control.run();
    }
}
