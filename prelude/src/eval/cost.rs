//! The cost of a task: time, memory, and tokens run through a model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The cost of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Tokens run through a model. Tokens with a backward pass count three times, in proportion to
    /// the arithmetic.
    pub tokens: u64,
    /// Wall-clock time.
    pub seconds: f64,
    /// The peak resident memory of this process during the task, mapped files included.
    pub peak_bytes: u64,
}

/// Runs `work`, which returns its result and the tokens it ran, and measures it.
///
/// # Errors
/// The error of `work`.
pub fn measured<T, E>(work: impl FnOnce() -> Result<(T, u64), E>) -> Result<(T, Cost), E> {
    /// The interval between memory readings.
    const PAUSE: Duration = Duration::from_millis(20);
    let peak = Arc::new(AtomicU64::new(resident()));
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (peak, done) = (peak.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
        })
    };
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let _ = watcher.join();
    let (value, tokens) = result?;
    Ok((value, Cost { tokens, seconds, peak_bytes: peak.load(Ordering::Relaxed).max(resident()) }))
}

/// Returns the resident memory of this process in bytes.
fn resident() -> u64 {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new();
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        false,
        ProcessRefreshKind::nothing().with_memory(),
    );
    system.process(pid).map_or(0, sysinfo::Process::memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_time_and_memory() {
        let work = || {
            let block = vec![1u8; 64 << 20];
            std::thread::sleep(Duration::from_millis(100));
            Ok::<_, ()>((block.iter().map(|x| u64::from(*x)).sum::<u64>(), 7))
        };
        // Tests beside this one may free as much at the same time.
        let sees_memory = || {
            let before = resident();
            let (sum, cost) = measured(work).unwrap();
            assert_eq!((sum, cost.tokens), (64 << 20, 7));
            assert!(cost.seconds > 0.09, "{cost:?}");
            cost.peak_bytes >= before + (60 << 20)
        };
        assert!((0..20).any(|_| sees_memory()));
        assert!(measured(|| Err::<((), u64), _>("no")).is_err());
    }
}
