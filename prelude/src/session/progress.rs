//! Reports the progress of tasks to a watcher: a bar in a terminal, a curve in a notebook.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::Dam;
use crate::show::{Figure, StepReport};
use crate::work;

/// The task whose message is the text generated so far. With one model, the message is its text;
/// with several, it has one line per model, after its name. A step is one token of each model.
pub const GENERATE: &str = "generate";

/// The unit of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Steps, candidates or tokens.
    Steps,
    /// Bytes read, downloaded or written.
    Bytes,
}

/// The state of a task: `train`, `solve`, `evolve`, `compare`, `trace` or [`GENERATE`], or, counted
/// in bytes, `download`, `load`, `data`, `save` or `write`.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// The name of the task.
    pub task: &'static str,
    /// Steps or bytes done; 0 at the start.
    pub done: usize,
    /// The unit of `done`.
    pub counts: Counts,
    /// The total, if known.
    pub total: Option<usize>,
    /// What was just done or comes next; for [`GENERATE`], the text so far without control
    /// characters.
    pub message: &'a str,
    /// The loss of the last step, in nats.
    pub loss: Option<f64>,
    /// The step just made, if the task is training.
    pub step: Option<&'a StepReport>,
    /// The merge in training.
    pub dam: Option<&'a Dam>,
    /// A figure of the task so far, if it has one other than the curve of its losses.
    pub figure: Option<&'a Figure>,
    /// Whether the task has ended.
    pub finished: bool,
}

/// The minimum interval between lines of progress.
const LINES_APART: Duration = Duration::from_secs(2);

type Watcher = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

static WATCHER: RwLock<Option<Watcher>> = RwLock::new(None);

/// Sets the watcher, replacing the previous one. It is called at the start, after every step and at
/// the end of each task, on the task's thread, and at intervals during reads and writes, from any
/// thread.
pub fn watch(watcher: impl Fn(&Progress<'_>) + Send + Sync + 'static) {
    let watcher: Watcher = Arc::new(watcher);
    let bytes = watcher.clone();
    work::watch(move |amount| {
        bytes(&Progress {
            task: amount.task,
            // Only the start of a task has `done` 0.
            done: if amount.is_first { 0 } else { amount.done.max(1) as usize },
            counts: Counts::Bytes,
            total: amount.total.map(|total| total as usize),
            message: amount.what,
            loss: None,
            step: None,
            dam: None,
            figure: None,
            finished: amount.is_last,
        });
    });
    *WATCHER.write().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
}

/// A task that reports its progress until it is dropped.
pub(super) struct Task<'a> {
    name: &'static str,
    total: Option<usize>,
    done: usize,
    dam: Option<&'a Dam>,
    watcher: Option<Watcher>,
}

impl<'a> Task<'a> {
    pub fn begin(name: &'static str, total: Option<usize>, dam: Option<&'a Dam>) -> Self {
        let watcher =
            WATCHER.read().unwrap_or_else(PoisonError::into_inner).clone().or_else(line_watcher);
        let task = Self { name, total, done: 0, dam, watcher };
        task.report(task.progress(""));
        task
    }

    /// Reports one more step.
    pub fn step(
        &mut self,
        message: impl FnOnce() -> String,
        loss: Option<f64>,
        step: Option<&StepReport>,
    ) {
        self.done += 1;
        if self.watcher.is_some() {
            self.report(Progress { loss, step, ..self.progress(&message()) });
        }
    }

    /// Reports one more step with a figure of the task so far.
    pub fn draw(&mut self, message: impl FnOnce() -> String, figure: impl FnOnce() -> Figure) {
        self.done += 1;
        if self.watcher.is_some() {
            self.report(Progress { figure: Some(&figure()), ..self.progress(&message()) });
        }
    }

    fn progress<'p>(&'p self, message: &'p str) -> Progress<'p> {
        Progress {
            task: self.name,
            done: self.done,
            counts: Counts::Steps,
            total: self.total,
            message,
            loss: None,
            step: None,
            dam: self.dam,
            figure: None,
            finished: false,
        }
    }

    fn report(&self, progress: Progress<'_>) {
        if let Some(watcher) = &self.watcher {
            watcher(&progress);
        }
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.report(Progress { finished: true, ..self.progress("") });
    }
}

/// Other kernels show no progress, so this prints a line at intervals.
fn line_watcher() -> Option<Watcher> {
    std::env::var_os("EVCXR_IS_RUNTIME")?;
    let last = Mutex::new(Instant::now());
    Some(Arc::new(move |progress: &Progress<'_>| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        // Generated text is not printed line by line; the answer is shown at the end.
        if progress.task != GENERATE && !progress.message.is_empty() && last.elapsed() > LINES_APART
        {
            *last = Instant::now();
            println!(
                "{} {}/{}  {}",
                progress.task,
                progress.done,
                progress.total.unwrap_or(0),
                progress.message
            );
        }
    }))
}
