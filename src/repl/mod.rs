//! The interactive session: a line at a time, errors do not end it. Input that is not a terminal is a script.

mod autosave;
mod colour;
mod editor;
mod highlight;
mod history;
mod leave;
mod offer;
mod prompt;

use std::cell::RefCell;
use std::io::{IsTerminal, Read};
use std::rc::Rc;

use dam_prelude::Error;
use dam_prelude::verbs::{Context, statements};
use rustyline::error::ReadlineError;

use crate::interrupt;
use crate::render::{Output, note};
use crate::run::{After, script, statement};
use autosave::Autosave;
use editor::{Editor, Line};

pub use autosave::step;

pub use editor::Keys;

/// Reads and runs until `quit` or the end of input. Tells whether all went well.
pub fn repl(keys: Keys, output: &Output) -> bool {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut text = Vec::new();
        return match stdin.lock().read_to_end(&mut text) {
            Ok(_) => script(&String::from_utf8_lossy(&text), output),
            Err(error) => {
                output.error("", &error.into());
                false
            }
        };
    }
    interrupt::stay();
    match interact(keys, output) {
        Ok(()) => true,
        Err(error) => {
            output.error("", &error.into());
            false
        }
    }
}

fn interact(keys: Keys, output: &Output) -> rustyline::Result<()> {
    let context = Rc::new(RefCell::new(Context::default()));
    let mut editor = Editor::new(keys, context.clone())?;
    if !output.json {
        output.say("DAM Lab: merge language models step by step. `help` lists the verbs, Tab completes, Ctrl-D leaves.");
    }
    let (mut autosave, begun) = offer::begin(&mut editor, output)?;
    *context.borrow_mut() = begun;
    loop {
        let leaves = match editor.line() {
            Ok(Line::Text(text)) => run(&text, &context, output, &mut autosave) == After::Quit,
            Ok(Line::Refused(message, hint)) => {
                output.error("", &Error::Refused { message, hint: hint.into() }.into());
                false
            }
            Err(ReadlineError::Interrupted) => false,
            Err(ReadlineError::Eof) => true,
            // The terminal is gone: what was done is kept.
            Err(error) => return Err(error),
        };
        if leaves && leave::may(&mut editor, &context, output)? {
            autosave.into_iter().for_each(Autosave::end);
            return Ok(());
        }
    }
}

/// Runs the statements of a line; the first that fails ends it. What each did is kept.
fn run(text: &str, context: &RefCell<Context>, output: &Output, autosave: &mut Option<Autosave>) -> After {
    let mut after = After::Next;
    for each in statements(text).unwrap_or_default() {
        after = statement(&each, &mut context.borrow_mut(), output);
        if let Some(Err(error)) = autosave.as_ref().map(|autosave| autosave.keep(&mut context.borrow_mut())) {
            note(&format!("this session is not kept from here on: {error:#}"));
            *autosave = None;
        }
        if after != After::Next {
            break;
        }
    }
    after
}
