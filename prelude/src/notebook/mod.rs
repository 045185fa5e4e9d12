//! Notebook support: verbs in cells, live figures while a cell runs, and a stop that keeps all
//! results.
//!
//! ```text
//! kernel --- lines of JSON on a socket ---> listen   begin, stop, verb
//! kernel <-- blocks on standard output ---- live     a figure, and its updates
//!                                           panic    the panic that ended a cell
//!                                           shown    the value of its last line
//! kernel <-> both                           widgets  controls, with closures that run between cells
//!                                           desk     a merge under sliders and buttons
//! ```
//!
//! Only the kernel of `dam` enables this; under another evcxr kernel, progress is printed in lines.

mod desk;
mod listen;
mod live;
mod panic;
mod shown;
mod turns;
mod widgets;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::error::Result;
use crate::error::refuse;
use crate::session::{latest, watch};
use crate::verbs::{AtPrompt, Context, Reply, Statement, at_prompt, find, replay, statements};

use desk::Recorder;

pub use desk::{Desk, DeskSettings};
pub use panic::PANIC;
pub use shown::{Bare, ByDebug, ByNumbers, NoSummary, Summary, Unwrap, show_error, variables};
pub use widgets::model::COMM;
pub use widgets::{Button, Control, Dropdown, Input, IntoOutput, Output, Slider, Text};

/// The environment variable that holds the path of the kernel's socket.
pub const SOCKET: &str = "DAM_NOTEBOOK";

/// The directory of this crate's source when it was compiled. The kernel of `dam` builds cells with
/// it.
pub const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// The MIME type of a live output block: JSON with `id` and `data`, an object of contents by MIME
/// type. A block with the id of an earlier one of the cell replaces it; with `update`, also one of
/// an earlier cell.
pub const LIVE: &str = "application/vnd.dam.live+json";

/// The context of the verbs. Its merge is the one most recently wrapped, also by a cell.
static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

/// Whether the kernel of `dam` runs the cells.
static ATTACHED: AtomicBool = AtomicBool::new(false);

fn is_attached() -> bool {
    ATTACHED.load(Ordering::SeqCst)
}

/// Connects to the kernel of `dam` and displays progress. Does nothing elsewhere, or on a second
/// call.
pub fn attach() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(socket) = std::env::var_os(SOCKET) {
            ATTACHED.store(true, Ordering::SeqCst);
            watch(live::watcher());
            panic::install_hook();
            listen::listen(&socket);
        }
    });
}

/// Runs `f` on the context of the verbs and the change that is being made.
fn with_recorder<T>(f: impl FnOnce(&mut Recorder) -> T) -> T {
    f(RECORDER.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// Runs a line of verbs on the latest merge, and passes every verb's reply to `shown`.
///
/// # Errors
/// The error of a verb; the verbs before it have taken effect.
fn run(line: &str, shown: impl FnMut(Reply)) -> Result<()> {
    let statements = match statements(line) {
        Ok(statements) => statements,
        Err(open) => return refuse(open.to_string(), "close it on the same line"),
    };
    with_recorder(|recorder| {
        recorder.settle()?;
        run_all(&mut recorder.context, statements, shown)
    })
}

fn run_all(
    context: &mut Context,
    statements: Vec<Statement>,
    mut shown: impl FnMut(Reply),
) -> Result<()> {
    for statement in statements {
        if at_prompt(&statement.verb) == Some(AtPrompt::Quit) {
            return refuse("quit does not work in a notebook", "shut down the kernel");
        }
        follow(context);
        let (before, of_cell) = (context.timeline().here(), of_cell(context));
        let reply = context.run(&statement)?;
        // Without this, the cell's variable would hold a merge that no verb acts on.
        if of_cell && context.dam.is_none() && !context.timeline().is_after(before) {
            context.cancel_undo(before, replay)?;
            return refuse(
                "cannot undo: a Rust cell created this merge",
                "run that cell again to create a new merge",
            );
        }
        shown(reply);
    }
    Ok(())
}

/// Prepares for the next cell: records the state after the previous one, so that undo can return to
/// it.
fn begin() {
    // A verb of an interrupted cell may still be running; its changes are recorded later.
    let Ok(mut recorder) = RECORDER.try_lock() else { return };
    let recorder = recorder.get_or_insert_default();
    // If recording fails, only undo to this state is lost.
    let _ = recorder.settle_now();
    follow(&mut recorder.context);
    let _ = recorder.context.note_cell();
}

/// Makes the merge most recently created by a cell the current one.
fn follow(context: &mut Context) {
    if let Ok(dam) = latest()
        && context.dam.as_ref().is_none_or(|known| !known.is_same(&dam))
    {
        context.wrapped(dam);
    }
}

/// Whether a cell created the merge, and not a verb.
fn of_cell(context: &Context) -> bool {
    let timeline = context.timeline();
    let by_verb = |state: &usize| {
        let done = timeline.states()[*state].done.as_ref();
        done.is_some_and(|done| find(&done.verb).is_ok_and(|verb| verb.wraps))
    };
    context.dam.is_some() && !timeline.path(timeline.here()).iter().any(by_verb)
}
