//! Settings of the whole process, made at the start of `main`. The process that runs the cells of a
//! notebook starts there too, so training has them in cells as at the prompt.

/// Makes the settings.
///
/// Must be called while no other thread runs.
pub fn configure() {
    stop_spinning();
    retain_memory();
}

/// Lets candle's threads sleep between operations: they would spin on the cores that the matrix
/// products use.
fn stop_spinning() {
    const SPIN_LIMIT: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";
    if std::env::var_os(SPIN_LIMIT).is_none() {
        // SAFETY: no other thread runs, as documented at `configure`.
        unsafe { std::env::set_var(SPIN_LIMIT, "0") };
    }
}

/// Keeps memory that one step frees for the next. By default glibc returns large blocks to the
/// system at once, and the page faults of fresh memory cost about a tenth of a step.
fn retain_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt sets two thresholds, under the lock of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::hint::black_box;

    use super::retain_memory;

    /// The page faults of this thread so far.
    fn faults() -> i64 {
        // SAFETY: an rusage of zeros is valid, and the pointer is to a live one.
        unsafe {
            let mut usage = std::mem::zeroed::<libc::rusage>();
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
            usage.ru_minflt
        }
    }

    #[test]
    fn freed_memory_is_taken_again_without_page_faults() {
        /// More than glibc would ever keep by default.
        const BYTES: usize = 40 << 20;
        retain_memory();
        let take = || drop(black_box(vec![1u8; BYTES]));
        take();
        let before = faults();
        take();
        let new = faults() - before;
        assert!(new < (BYTES / 4096 / 16) as i64, "{new} page faults");
    }
}
