//! Runs every reader of untrusted files on mutated valid files: it must not panic, and must stay
//! within ten seconds and a gigabyte. Each reader gets one second here; `DAM_FUZZ_RUNS=N` runs N
//! inputs each, starting at `DAM_FUZZ_FROM`; `DAM_FUZZ_TARGET` selects one target;
//! `DAM_FUZZ_CORPUS=DIR` writes the valid files for cargo-fuzz; `DAM_FUZZ_KEEP=FILE` stores each
//! input before it is run, for inputs that kill the process. See `.ci/fuzz`.

mod common;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/seeds.rs"]
mod seeds;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dam_prelude::fuzz::TARGETS;
use mutate::mutated;
use seeds::seeds;

/// The maximum memory per input in bytes.
const MAX_BYTES: usize = 1 << 30;

/// The maximum duration per input.
const MAX_DURATION: Duration = Duration::from_secs(10);

/// An allocator that tracks memory use.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

fn allocated(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
    if now > LIMIT.load(Relaxed) {
        // Nothing is allocated from here on: the memory may be exhausted.
        report("too much memory");
        std::process::abort();
    }
}

// SAFETY: delegates to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match size.checked_sub(layout.size()) {
            Some(more) => allocated(more),
            None => drop(NOW.fetch_sub(layout.size() - size, Relaxed)),
        }
        // SAFETY: guaranteed by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The current target and mutation, and its start time in milliseconds.
static TARGET: AtomicUsize = AtomicUsize::new(0);
static NUMBER: AtomicU64 = AtomicU64::new(0);
static BEGAN: AtomicU64 = AtomicU64::new(u64::MAX);

/// Reports a failure without allocating.
fn report(what: &str) {
    let mut digits = [b'0'; 20];
    let (mut rest, mut at) = (NUMBER.load(Relaxed), digits.len());
    while rest > 0 {
        at -= 1;
        digits[at] += (rest % 10) as u8;
        rest /= 10;
    }
    for part in [
        what.as_bytes(),
        b": DAM_FUZZ_TARGET=",
        TARGETS[TARGET.load(Relaxed)].0.as_bytes(),
        b" DAM_FUZZ_RUNS=1 DAM_FUZZ_FROM=",
        &digits[at..],
        b"\n",
    ] {
        // SAFETY: the pointer and length come from a valid slice.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
}

fn set<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn mutated_files_never_panic() {
    // Names in a mutated session must not be looked up on the hub.
    // SAFETY: the other threads, of the test harness and the other test, read the environment
    // through std, whose lock `set_var` takes.
    unsafe { std::env::set_var("HF_HUB_OFFLINE", "1") };
    let start = Instant::now();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let (now, began) = (start.elapsed().as_millis() as u64, BEGAN.load(Relaxed));
            if now.saturating_sub(began) > MAX_DURATION.as_millis() as u64 {
                report("too long");
                std::process::abort();
            }
        }
    });
    let (runs, from): (Option<u64>, u64) =
        (set("DAM_FUZZ_RUNS"), set("DAM_FUZZ_FROM").unwrap_or(0));
    let (only, keep): (Option<String>, Option<String>) =
        (set("DAM_FUZZ_TARGET"), set("DAM_FUZZ_KEEP"));
    for (i, (name, target)) in TARGETS
        .iter()
        .enumerate()
        .filter(|(_, (name, _))| only.as_deref().is_none_or(|only| only == *name))
    {
        let good = seeds(name);
        TARGET.store(i, Relaxed);
        let (begin, mut number, mut slowest, mut most) = (Instant::now(), from, Duration::ZERO, 0);
        let goes_on = |number: u64| match runs {
            Some(runs) => number < from + runs,
            None => begin.elapsed() < Duration::from_secs(1),
        };
        while goes_on(number) {
            // The unmodified files come first.
            let input = good
                .get(number as usize)
                .filter(|_| from == 0)
                .cloned()
                .unwrap_or_else(|| mutated(&good, number));
            keep.iter().for_each(|file| std::fs::write(file, &input).unwrap());
            let before = NOW.load(Relaxed);
            PEAK.store(before, Relaxed);
            LIMIT.store(before + MAX_BYTES, Relaxed);
            NUMBER.store(number, Relaxed);
            let one = Instant::now();
            BEGAN.store(start.elapsed().as_millis() as u64, Relaxed);
            let done = catch_unwind(AssertUnwindSafe(|| target(&input)));
            BEGAN.store(u64::MAX, Relaxed);
            LIMIT.store(usize::MAX, Relaxed);
            if done.is_err() {
                report("a panic");
                std::fs::write(
                    std::env::temp_dir().join(format!("dam-fuzz-{name}-{number}")),
                    &input,
                )
                .unwrap();
                panic!("{name} panics on mutation {number}");
            }
            (slowest, most) = (slowest.max(one.elapsed()), most.max(PEAK.load(Relaxed) - before));
            number += 1;
        }
        println!(
            "{name}: {} runs, the slowest {:.2} s, at most {:.1} MB",
            number - from,
            slowest.as_secs_f64(),
            most as f64 / 1e6
        );
    }
    let _ = std::fs::remove_dir_all(
        std::env::temp_dir().join(format!("dam-fuzz-{}", std::process::id())),
    );
}

#[test]
fn the_corpus_for_cargo_fuzz_is_written_on_request() {
    let asked = std::env::var_os("DAM_FUZZ_CORPUS").map(std::path::PathBuf::from);
    let directory = tempfile::tempdir().unwrap();
    let to = asked.unwrap_or_else(|| directory.path().into());
    for (name, _) in TARGETS {
        std::fs::create_dir_all(to.join(name)).unwrap();
        let good = seeds(name);
        assert!(!good.is_empty());
        good.iter().enumerate().for_each(|(i, bytes)| {
            std::fs::write(to.join(name).join(format!("seed-{i}")), bytes).unwrap()
        });
    }
}
