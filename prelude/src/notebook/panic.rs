//! Reports a panic in a cell with its message first, as an output block.
//!
//! Writing a backtrace takes long, so it is included only if `RUST_BACKTRACE` is set, for the
//! kernel or in a cell.

use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;
use std::thread::ThreadId;

use serde_json::json;

/// The MIME type of a panic block: JSON with `message`, `file`, `line`, `column`, the name of the
/// `thread` unless it is the cell's, and `backtrace` if enabled.
pub const PANIC: &str = "application/vnd.dam.panic+json";

/// Installs the panic hook. Call it on the thread of the cells.
pub fn install_hook() {
    let cells = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| report(panic, cells)));
}

fn report(panic: &PanicHookInfo<'_>, cells: ThreadId) {
    let payload = panic.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or(payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("(not text)");
    let (place, thread) = (panic.location(), std::thread::current());
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
