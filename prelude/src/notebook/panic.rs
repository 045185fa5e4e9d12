//! Reports a panic in a cell with its message first, as an output block.
//!
//! Writing a backtrace takes long, so it is included only if `RUST_BACKTRACE` is set, for the
//! kernel or in a cell.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::thread::ThreadId;

use serde_json::json;

/// The MIME type of a panic block: JSON with `message`, `file`, `line`, `column`, the name of the
/// `thread` unless it is the cell's, and `backtrace` if enabled.
pub const PANIC: &str = "application/vnd.dam.panic+json";

thread_local! {
    /// What a panic says, while [`caught`] catches it on this thread.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic is returned as its message and position, and not reported elsewhere.
///
/// # Errors
/// `f` has panicked.
pub(super) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    CAUGHT.set(Some(String::new()));
    let result = std::panic::catch_unwind(AssertUnwindSafe(f));
    let text = CAUGHT.take().filter(|text| !text.is_empty());
    result.map_err(|payload| text.unwrap_or_else(|| format!("panicked: {}", message(&*payload))))
}

fn message(payload: &dyn Any) -> &str {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or(payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("(not text)")
}

/// Installs the panic hook. Call it on the thread of the cells.
pub fn install_hook() {
    let cells = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| report(panic, cells)));
}

fn report(panic: &PanicHookInfo<'_>, cells: ThreadId) {
    let message = message(panic.payload());
    let (place, thread) = (panic.location(), std::thread::current());
    let is_caught = CAUGHT.with_borrow_mut(|caught| {
        let at = place.map(|place| format!("\n --> {place}")).unwrap_or_default();
        caught.as_mut().map(|caught| *caught = format!("panicked: {message}{at}")).is_some()
    });
    if is_caught {
        return;
    }
    let thread = (thread.id() != cells).then(|| thread.name().unwrap_or("unnamed").to_owned());
    let wanted = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let backtrace = wanted.then(|| Backtrace::force_capture().to_string());
    let report = json!({
        "message": message, "thread": thread, "backtrace": backtrace,
        "file": place.map(|place| place.file()), "line": place.map(|place| place.line()),
        "column": place.map(|place| place.column()),
    });
    println!("EVCXR_BEGIN_CONTENT {PANIC}\n{report}\nEVCXR_END_CONTENT");
}
