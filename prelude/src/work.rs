//! Floor 0: long work on bytes, such as a download, a load or a write: how far it is, told to whoever watches, and the
//! place where it stops when a stop is asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::interrupt;

/// How far work is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount<'a> {
    pub task: &'static str,
    /// What it is done on, or waits for.
    pub what: &'a str,
    /// Bytes.
    pub done: u64,
    /// Bytes of the whole, where that is known.
    pub total: Option<u64>,
    /// The first look at it.
    pub begins: bool,
    /// Nothing more will come of it.
    pub finished: bool,
}

type Watcher = Arc<dyn Fn(&Amount<'_>) + Send + Sync>;

static WATCHER: RwLock<Option<Watcher>> = RwLock::new(None);

/// Calls `watcher` while work is under way, from any thread, one call at a time for each piece of work.
pub(crate) fn watch(watcher: impl Fn(&Amount<'_>) + Send + Sync + 'static) {
    *WATCHER.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watcher));
}

/// What is over sooner is not told of.
const SOON: Duration = Duration::from_millis(400);

/// Looks are this far apart.
const APART: Duration = Duration::from_millis(100);

/// Work under way, until it is dropped. Threads share it.
pub(crate) struct Work {
    task: &'static str,
    what: String,
    total: Option<u64>,
    done: AtomicU64,
    begun: Instant,
    watcher: Option<Watcher>,
    /// When it was told of last.
    told: Mutex<Option<Instant>>,
}

impl Work {
    /// Work on `what`, of `total` bytes where that is known.
    pub fn begin(task: &'static str, what: impl Into<String>, total: Option<u64>) -> Self {
        let watcher = WATCHER.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (what, done) = (what.into(), AtomicU64::new(0));
        Self { task, what, total, done, begun: Instant::now(), watcher, told: Mutex::new(None) }
    }

    /// `bytes` more are done; stops where a stop was asked for.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn advance(&self, bytes: u64) -> Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.tell(&self.what);
        interrupt::check()
    }

    /// So many bytes are done.
    ///
    /// # Errors
    /// As for [`Work::advance`].
    pub fn reach(&self, done: u64) -> Result<()> {
        self.done.store(done, Ordering::Relaxed);
        self.advance(0)
    }

    /// Waits, and says for what: `message` is given the seconds that are left.
    ///
    /// # Errors
    /// As for [`Work::advance`].
    pub fn wait(&self, time: Duration, message: impl Fn(u64) -> String) -> Result<()> {
        /// A stop is seen after this long.
        const LOOK: Duration = Duration::from_millis(25);
        let end = Instant::now() + time;
        loop {
            interrupt::check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.tell(&message(left.as_secs() + 1));
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn tell(&self, what: &str) {
        let Some(watcher) = self.watcher.as_ref().filter(|_| self.begun.elapsed() > SOON) else { return };
        // Whoever finds another telling does not wait for it.
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
    fn work_is_told_of_from_its_begin_to_its_end_and_not_if_it_is_soon_over() {
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
