//! What is under way, told to whoever watches: a bar in a terminal, a curve in a notebook.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::Dam;
use crate::show::StepReport;
use crate::work;

/// The task whose messages are text so far, of several lines: of one model as it is, of several a line each after
/// its name. A step is a token of each of them.
pub const GENERATE: &str = "generate";

/// What progress is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Steps, candidates or tokens.
    Steps,
    /// Bytes that are read, downloaded or written.
    Bytes,
}

/// A look at a task: `train`, `evolve`, `compare`, [`GENERATE`], or of bytes `download`, `load`, `data`, `save` and
/// `write`.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// Its name.
    pub task: &'static str,
    /// Steps or bytes done; 0 at the begin.
    pub done: usize,
    /// What is counted.
    pub counts: Counts,
    /// Of how many, where that is known.
    pub total: Option<usize>,
    /// What was just done, or is done next; of [`GENERATE`] the text so far, without control characters.
    pub message: &'a str,
    /// The loss of the last step, in nats.
    pub loss: Option<f64>,
    /// The step just made, where it trains.
    pub step: Option<&'a StepReport>,
    /// What trains.
    pub dam: Option<&'a Dam>,
    /// Nothing more will come of it.
    pub finished: bool,
}

/// How far apart lines of progress are.
const LINES_APART: Duration = Duration::from_secs(2);

type Watcher = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

static WATCHER: RwLock<Option<Watcher>> = RwLock::new(None);

/// Calls `watcher` at the begin, after every step and at the end of each task, on the task's own thread, and now and
/// then while many bytes are read or written, from any thread; the one before it is called no more.
pub fn watch(watcher: impl Fn(&Progress<'_>) + Send + Sync + 'static) {
    let watcher: Watcher = Arc::new(watcher);
    let bytes = watcher.clone();
    work::watch(move |amount| {
        // Only its begin is at 0.
        let done = if amount.is_first { 0 } else { amount.done.max(1) as usize };
        let (total, message) = (amount.total.map(|total| total as usize), amount.what);
        let (task, counts, finished) = (amount.task, Counts::Bytes, amount.is_last);
        bytes(&Progress { task, done, counts, total, message, loss: None, step: None, dam: None, finished });
    });
    *WATCHER.write().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
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
        let watcher = WATCHER.read().unwrap_or_else(PoisonError::into_inner).clone().or_else(in_lines);
        let task = Self { name, total, done: 0, dam, watcher };
        task.tell("", None, None, false);
        task
    }

    /// One more step is done.
    pub fn step(&mut self, message: impl FnOnce() -> String, loss: Option<f64>, step: Option<&StepReport>) {
        self.done += 1;
        if self.watcher.is_some() {
            self.tell(&message(), loss, step, false);
        }
    }

    fn tell(&self, message: &str, loss: Option<f64>, step: Option<&StepReport>, finished: bool) {
        let Self { name: task, total, done, dam, .. } = *self;
        if let Some(watcher) = &self.watcher {
            watcher(&Progress { task, done, counts: Counts::Steps, total, message, loss, step, dam, finished });
        }
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.tell("", None, None, true);
    }
}

/// Under a kernel that is not ours there is no other way: a line now and then.
fn in_lines() -> Option<Watcher> {
    std::env::var_os("EVCXR_IS_RUNTIME")?;
    let last = Mutex::new(Instant::now());
    Some(Arc::new(move |progress: &Progress<'_>| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        // Text as it grows is nothing for lines: it comes whole at the end.
        if progress.task != GENERATE && !progress.message.is_empty() && last.elapsed() > LINES_APART {
            *last = Instant::now();
            println!("{} {}/{}  {}", progress.task, progress.done, progress.total.unwrap_or(0), progress.message);
        }
    }))
}
