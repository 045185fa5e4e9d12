//! Floor 0: crates that panic on damaged files, run so that a panic is an error of ours and prints nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What is said of a file whose reader panicked.
pub(crate) const CONTRADICTS: &str = "it contradicts itself";

thread_local! {
    /// How many guards the thread is in.
    static GUARDS: Cell<usize> = const { Cell::new(0) };
}

/// One more guard of the thread, until it is dropped.
struct Quiet;

impl Quiet {
    fn new() -> Self {
        /// What reports a panic goes on as it did, but for threads within a guard.
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if GUARDS.try_with(Cell::get).unwrap_or(0) == 0 {
                    before(info);
                }
            }));
        });
        GUARDS.set(GUARDS.get() + 1);
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        GUARDS.set(GUARDS.get().saturating_sub(1));
    }
}

/// Runs `work`; a panic in it is an error, with words for the reader of the file, and nothing is printed.
///
/// # Errors
/// Those of `work`, and panics.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let _quiet = Quiet::new();
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(CONTRADICTS.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_hook_of_others_is_kept() {
        let index = std::hint::black_box(3);
        assert_eq!(guarded(|| Ok([1, 2, 3][..index].len())), Ok(3));
        assert_eq!(guarded::<usize>(|| Ok([1, 2, 3][index])), Err(CONTRADICTS.into()));
        assert_eq!(guarded(|| guarded::<i32>(|| panic!("inner")).or(Ok(1))), Ok(1));
        assert_eq!(GUARDS.get(), 0);
    }
}
