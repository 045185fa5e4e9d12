//! What is under way, told to whoever watches: a bar in a terminal, a curve in a notebook.

use std::sync::{Arc, PoisonError, RwLock};

use super::Dam;

/// A look at a task: `train`, `evolve` or `compare`.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// Its name.
    pub task: &'static str,
    /// Steps or candidates done; 0 at the begin.
    pub done: usize,
    /// Of how many, where that is known.
    pub total: Option<usize>,
    /// What was just done, or is done next.
    pub message: &'a str,
    /// The loss of the last step, in nats.
    pub loss: Option<f64>,
    /// What trains.
    pub dam: Option<&'a Dam>,
    /// Nothing more will come of it.
    pub finished: bool,
}

type Watcher = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

static WATCHER: RwLock<Option<Watcher>> = RwLock::new(None);

/// Calls `watcher` at the begin, after every step and at the end of each task, on the task's own thread; the one
/// before it is called no more.
pub fn watch(watcher: impl Fn(&Progress<'_>) + Send + Sync + 'static) {
    *WATCHER.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watcher));
}

/// A task that is told of until it is dropped.
pub(super) struct Task<'a> {
    name: &'static str,
    total: Option<usize>,
    done: usize,
    dam: Option<&'a Dam>,
    watcher: Option<Watcher>,
}

impl<'a> Task<'a> {
    pub fn begin(name: &'static str, total: Option<usize>, dam: Option<&'a Dam>) -> Self {
        let watcher = WATCHER.read().unwrap_or_else(PoisonError::into_inner).clone();
        let task = Self { name, total, done: 0, dam, watcher };
        task.tell("", None, false);
        task
    }

    /// One more step is done.
    pub fn step(&mut self, message: impl FnOnce() -> String, loss: Option<f64>) {
        self.done += 1;
        if self.watcher.is_some() {
            self.tell(&message(), loss, false);
        }
    }

    fn tell(&self, message: &str, loss: Option<f64>, finished: bool) {
        let Self { name: task, total, done, dam, .. } = *self;
        if let Some(watcher) = &self.watcher {
            watcher(&Progress { task, done, total, message, loss, dam, finished });
        }
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.tell("", None, true);
    }
}
