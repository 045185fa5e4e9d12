//! Layer 0: progress of long byte-level work such as downloads, loads and writes. [`Work`] reports
//! progress to a watcher and returns an error when a stop is requested.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::interrupt;

/// The progress of a piece of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkProgress<'a> {
    pub task: &'static str,
    /// What it works on, or what it is waiting for.
    pub what: &'a str,
    /// Bytes done so far.
    pub done: u64,
    /// Total bytes, if known.
    pub total: Option<u64>,
    /// Whether this is the first report.
    pub is_first: bool,
    /// Whether this is the last report.
    pub is_last: bool,
}

type WorkWatcher = Arc<dyn Fn(&WorkProgress<'_>) + Send + Sync>;

static WATCHER: RwLock<Option<WorkWatcher>> = RwLock::new(None);

/// Sets the function that receives progress. It is called from any thread, one call at a time per
/// piece of work.
pub(crate) fn watch(watcher: impl Fn(&WorkProgress<'_>) + Send + Sync + 'static) {
    *WATCHER.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watcher));
}

/// Work that takes less time than this is not reported.
const REPORT_DELAY: Duration = Duration::from_millis(400);

/// The minimum interval between reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Work in progress, until dropped. Threads may share it.
pub(crate) struct Work {
    task: &'static str,
    what: String,
    total: Option<u64>,
    done: AtomicU64,
    begun: Instant,
    watcher: Option<WorkWatcher>,
    /// The time of the last report.
    reported: Mutex<Option<Instant>>,
}

impl Work {
    /// Starts work on `what`, of `total` bytes if known.
    pub fn begin(task: &'static str, what: impl Into<String>, total: Option<u64>) -> Self {
        let watcher = WATCHER.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (what, done) = (what.into(), AtomicU64::new(0));
        Self { task, what, total, done, begun: Instant::now(), watcher, reported: Mutex::new(None) }
    }

    /// Adds `bytes` to the work done. Returns an error if a stop was requested.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn advance(&self, bytes: u64) -> Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.report(&self.what);
        interrupt::check()
    }

    /// Sets the work done to `done` bytes.
    ///
    /// # Errors
    /// As for [`Work::advance`].
    pub fn reach(&self, done: u64) -> Result<()> {
        self.done.store(done, Ordering::Relaxed);
        self.advance(0)
    }

    /// Waits and reports why: `message` receives the seconds left.
    ///
    /// # Errors
    /// As for [`Work::advance`].
    pub fn wait(&self, time: Duration, message: impl Fn(u64) -> String) -> Result<()> {
        /// The interval at which a stop is noticed.
        const LOOK: Duration = Duration::from_millis(25);
        let end = Instant::now() + time;
        loop {
            interrupt::check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.report(&message(left.as_secs() + 1));
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn report(&self, what: &str) {
        let Some(watcher) = self.watcher.as_ref().filter(|_| self.begun.elapsed() > REPORT_DELAY)
        else {
            return;
        };
        // If another thread is reporting, this one does not wait.
        let Ok(mut reported) = self.reported.try_lock() else { return };
        if reported.is_some_and(|last| last.elapsed() < REPORT_INTERVAL) {
            return;
        }
        let progress = self.progress(what);
        if reported.is_none() {
            watcher(&WorkProgress { done: 0, is_first: true, ..progress });
        }
        watcher(&progress);
        *reported = Some(Instant::now());
    }

    fn progress<'a>(&self, what: &'a str) -> WorkProgress<'a> {
        let done = self.done.load(Ordering::Relaxed);
        WorkProgress {
            task: self.task,
            what,
            done,
            total: self.total,
            is_first: false,
            is_last: false,
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let (Some(watcher), Some(_)) =
            (&self.watcher, *self.reported.lock().unwrap_or_else(PoisonError::into_inner))
        {
            watcher(&WorkProgress { is_last: true, ..self.progress(&self.what) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_reported_from_start_to_finish_unless_it_is_short() {
        let seen: Arc<Mutex<Vec<(u64, bool, bool)>>> = Arc::default();
        let reported = seen.clone();
        watch(move |progress| {
            if progress.task == "test" {
                reported.lock().unwrap().push((progress.done, progress.is_first, progress.is_last));
            }
        });
        Work::begin("test", "soon", Some(10)).advance(10).unwrap();
        assert!(seen.lock().unwrap().is_empty());
        let work = Work::begin("test", "long", Some(10));
        std::thread::sleep(REPORT_DELAY + REPORT_INTERVAL);
        work.advance(3).unwrap();
        work.advance(3).unwrap();
        std::thread::sleep(REPORT_INTERVAL + REPORT_INTERVAL);
        work.reach(8).unwrap();
        drop(work);
        assert_eq!(
            *seen.lock().unwrap(),
            [(0, true, false), (3, false, false), (8, false, false), (8, false, true)]
        );
    }
}
