//! Layer 0: runs crates that panic on corrupt files so that a panic becomes an error and prints
//! nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// The message for a file whose reader panicked.
pub(crate) const CONTRADICTS: &str = "its contents are inconsistent";

thread_local! {
    /// The number of nested guards on this thread.
    static GUARDS: Cell<usize> = const { Cell::new(0) };
}

/// A guard on this thread, until dropped.
struct Quiet;

impl Quiet {
    fn new() -> Self {
        /// Installs a panic hook that stays silent within a guard and otherwise calls the previous
        /// hook.
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

/// Runs `work`. A panic in it becomes an error with a readable message, and nothing is printed.
///
/// # Errors
/// Errors of `work`, and panics.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let _quiet = Quiet::new();
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(CONTRADICTS.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_the_previous_hook_is_kept() {
        let index = std::hint::black_box(3);
        assert_eq!(guarded(|| Ok([1, 2, 3][..index].len())), Ok(3));
        assert_eq!(guarded::<usize>(|| Ok([1, 2, 3][index])), Err(CONTRADICTS.into()));
        assert_eq!(guarded(|| guarded::<i32>(|| panic!("inner")).or(Ok(1))), Ok(1));
        assert_eq!(GUARDS.get(), 0);
    }
}
