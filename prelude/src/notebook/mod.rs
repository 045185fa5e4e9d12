//! Floor 9: what a notebook adds: verbs beside the cells, pictures while a cell runs, and a stop that keeps everything.
//!
//! ```text
//! kernel --- lines of JSON on a socket ---> listen   begin, stop, verb
//! kernel <-- blocks on standard output ---- live     a picture, and its later states
//! ```
//!
//! Only the kernel of `dam` sets this up; under another evcxr kernel training tells its progress in lines.

mod listen;
mod live;

use std::sync::{Mutex, Once, PoisonError};

use crate::error::Result;
use crate::session::{latest, watch};
use crate::verbs::{Context, Reply, quits, refuse, statements};

/// The environment variable with the path of the kernel's socket.
pub const SOCKET: &str = "DAM_NOTEBOOK";

/// The type of a block on standard output that is shown at once, and again in its place when it comes with the id
/// of an earlier one: JSON with `id` and `data`, an object of contents by type.
pub const LIVE: &str = "application/vnd.dam.live+json";

/// What verbs act on; the merge is the one that was wrapped last, also in a cell.
static CONTEXT: Mutex<Option<Context>> = Mutex::new(None);

/// Begins to listen to the kernel of `dam`, and to show what is under way; does nothing elsewhere, or again.
pub fn attach() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(socket) = std::env::var_os(SOCKET) {
            watch(live::watcher());
            listen::listen(&socket);
        }
    });
}

/// Runs a line of verbs on the merge that was made last, and gives every verb's reply to `shown`.
///
/// # Errors
/// What a verb says; those before it are done.
fn run(line: &str, mut shown: impl FnMut(Reply)) -> Result<()> {
    let statements = match statements(line) {
        Ok(statements) => statements,
        Err(open) => return refuse(open.to_string(), "close it in the same line"),
    };
    let mut context = CONTEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let context = context.get_or_insert_default();
    for statement in statements {
        if quits(&statement.verb) {
            return refuse("a notebook is not left by a verb", "shut its kernel down");
        }
        if let Ok(dam) = latest()
            && context.dam.as_ref().is_none_or(|known| !known.is(&dam))
        {
            context.wrapped(dam);
        }
        shown(context.run(&statement)?);
    }
    Ok(())
}
