//! Progress of long work on bytes (downloads, reads and writes), reported to a watcher, and the points where it
//! checks for a stop request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::interrupt;

/// The state of a piece of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount<'a> {
    pub task: &'static str,
    /// The object of the work, or what it waits for.
    pub what: &'a str,
    /// Bytes done.
    pub done: u64,
    /// Total bytes, if known.
    pub total: Option<u64>,
    /// Whether this is the first report.
    pub begins: bool,
    /// Whether the work has ended.
    pub finished: bool,
}

type Watcher = Arc<dyn Fn(&Amount<'_>) + Send + Sync>;

static WATCHER: RwLock<Option<Watcher>> = RwLock::new(None);

/// Sets the watcher. It is called during work, from any thread, and not concurrently for the same piece of work.
pub(crate) fn watch(watcher: impl Fn(&Amount<'_>) + Send + Sync + 'static) {
    *WATCHER.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watcher));
}

/// Work that ends sooner is not reported.
const SOON: Duration = Duration::from_millis(400);

/// The minimum interval between reports.
const APART: Duration = Duration::from_millis(100);

/// A piece of work in progress, until it is dropped. Threads share it.
pub(crate) struct Work {
    task: &'static str,
    what: String,
    total: Option<u64>,
    done: AtomicU64,
    begun: Instant,
    watcher: Option<Watcher>,
    /// The time of the last report.
    told: Mutex<Option<Instant>>,
}

impl Work {
    /// Starts work on `what`, of `total` bytes if known.
    pub fn begin(task: &'static str, what: impl Into<String>, total: Option<u64>) -> Self {
        let watcher = WATCHER.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (what, done) = (what.into(), AtomicU64::new(0));
        Self { task, what, total, done, begun: Instant::now(), watcher, told: Mutex::new(None) }
    }

    /// Adds `bytes` finished bytes, and checks for a stop request.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn advance(&self, bytes: u64) -> Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.report(&self.what);
        interrupt::check()
    }

    /// Sets the number of finished bytes.
    ///
    /// # Errors
    /// As for [`Work::advance`].
    pub fn reach(&self, done: u64) -> Result<()> {
        self.done.store(done, Ordering::Relaxed);
        self.advance(0)
    }

    /// Waits, and reports the reason: `message` receives the remaining seconds.
    ///
    /// # Errors
    /// As for [`Work::advance`].
    pub fn wait(&self, time: Duration, message: impl Fn(u64) -> String) -> Result<()> {
        /// The interval between checks for a stop request.
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
        let Some(watcher) = self.watcher.as_ref().filter(|_| self.begun.elapsed() > SOON) else { return };
        // If another thread is reporting, this report is skipped.
        let Ok(mut told) = self.told.try_lock() else { return };
        if told.is_some_and(|last| last.elapsed() < APART) {
            return;
        }
        let amount = self.amount(what);
        if told.is_none() {
            watcher(&Amount { done: 0, begins: true, ..amount });
        }
        watcher(&amount);
        *told = Some(Instant::now());
    }

    fn amount<'a>(&self, what: &'a str) -> Amount<'a> {
        let done = self.done.load(Ordering::Relaxed);
        Amount { task: self.task, what, done, total: self.total, begins: false, finished: false }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let (Some(watcher), Some(_)) = (&self.watcher, *self.told.lock().unwrap_or_else(PoisonError::into_inner)) {
            watcher(&Amount { finished: true, ..self.amount(&self.what) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_is_reported_and_short_work_is_not() {
        let seen: Arc<Mutex<Vec<(u64, bool, bool)>>> = Arc::default();
        let told = seen.clone();
        watch(move |amount| {
            if amount.task == "test" {
                told.lock().unwrap().push((amount.done, amount.begins, amount.finished));
            }
        });
        Work::begin("test", "soon", Some(10)).advance(10).unwrap();
        assert!(seen.lock().unwrap().is_empty());
        let work = Work::begin("test", "long", Some(10));
        std::thread::sleep(SOON + APART);
        work.advance(3).unwrap();
        work.advance(3).unwrap();
        std::thread::sleep(APART + APART);
        work.reach(8).unwrap();
        drop(work);
        assert_eq!(*seen.lock().unwrap(), [(0, true, false), (3, false, false), (8, false, false), (8, false, true)]);
    }
}
