//! Floor 9: what a notebook adds: verbs beside the cells, pictures while a cell runs, and a stop that keeps everything.
//!
//! ```text
//! kernel --- lines of JSON on a socket ---> listen   begin, stop, verb
//! kernel <-- blocks on standard output ---- live     a picture, and its later states
//!                                           panic    why a cell ended
//!                                           shown    the value of its last line
//! ```
//!
//! Only the kernel of `dam` sets this up; under another evcxr kernel training tells its progress in lines.

mod listen;
mod live;
mod panic;
mod shown;

use std::sync::{Mutex, Once, PoisonError};

use crate::error::Result;
use crate::session::{latest, watch};
use crate::verbs::{Context, Reply, quits, refuse, statements};

pub use panic::PANIC;
pub use shown::{ByDebug, ByNumbers, InResult, Itself, Nameless, Summed, show_error, variables};

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
            panic::tell();
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
        follow(context);
        let (before, of_cell) = (context.timeline().here(), of_cell(context));
        let reply = context.run(&statement)?;
        // The variable of the cell would stay, and the merge in it be that of no verb.
        if of_cell && context.dam.is_none() && is_undo(&statement.verb) {
            let depth = |state: usize| context.timeline().path(state).len();
            match depth(before) - depth(context.timeline().here()) {
                back if statement.verb == "undo" => context.redo(back)?,
                _ => context.go(before)?,
            }
            return refuse(
                "what is before was made by no verb: a cell of Rust made this merge",
                "run that cell again for a new one",
            );
        }
        shown(reply);
    }
    Ok(())
}

/// A cell is about to run: what the one before did is a state that can be gone back to.
fn begin() {
    // A verb of a cell that was given up may still work on it; what changes then is kept with the next.
    let Ok(mut context) = CONTEXT.try_lock() else { return };
    let context = context.get_or_insert_default();
    follow(context);
    // What cannot be kept can only not be gone back to.
    let _ = context.note_cell();
}

/// The merge that a cell made last is what verbs act on.
fn follow(context: &mut Context) {
    if let Ok(dam) = latest()
        && context.dam.as_ref().is_none_or(|known| !known.is(&dam))
    {
        context.wrapped(dam);
    }
}

/// Whether a cell made the merge, and no verb.
fn of_cell(context: &Context) -> bool {
    let timeline = context.timeline();
    let path = timeline.path(timeline.here());
    context.dam.is_some()
        && path.iter().all(|state| timeline.states()[*state].done.as_ref().is_none_or(|done| !makes(&done.verb)))
}

/// Whether a verb makes a merge to be trained.
fn makes(verb: &str) -> bool {
    ["wrap", "open"].contains(&verb)
}

fn is_undo(verb: &str) -> bool {
    ["undo", "switch"].contains(&verb)
}
