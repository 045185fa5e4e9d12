//! The interactive session (REPL). It reads one line at a time, and errors do not end it. Input
//! that is not a terminal is run as a script.

mod autosave;
mod colour;
mod confirm;
mod editor;
mod highlight;
mod history;
mod prompt;
mod recovery;
#[cfg(feature = "jupyter")]
mod rust;
mod state;

use std::cell::RefCell;
use std::io::{IsTerminal, Read};
use std::rc::Rc;

use dam_prelude::Error;
use dam_prelude::verbs::{AtPrompt, Context, at_prompt, statements};
use rustyline::error::ReadlineError;

use crate::interrupt;
use crate::run::{End, Outcome, input, report_skipped, statement};
use crate::terminal::render::{Output, note};
use autosave::Autosave;
use editor::{Editor, Input};

#[cfg(feature = "jupyter")]
use rust::RustPrompt;

pub use autosave::save_step;

pub use editor::Keys;

/// Reads and runs lines until `quit` or the end of input.
pub fn repl(keys: Keys, output: &Output) -> End {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut text = Vec::new();
        return match stdin.lock().read_to_end(&mut text) {
            Ok(_) => input(&String::from_utf8_lossy(&text), output),
            Err(error) => {
                output.error("", &error.into());
                End::Failed
            }
        };
    }
    interrupt::set_interactive();
    match interact(keys, output) {
        Ok(()) => End::Done,
        Err(error) => {
            output.error("", &error.into());
            End::Failed
        }
    }
}

fn interact(keys: Keys, output: &Output) -> rustyline::Result<()> {
    let context = Rc::new(RefCell::new(Context::default()));
    let mut editor = Editor::new(keys, context.clone())?;
    if !output.json {
        output.print("DAM Lab: merge language models step by step. `help` lists the verbs, Tab completes, Ctrl-D quits.");
    }
    let (autosave, initial) = recovery::begin(&mut editor, output)?;
    *context.borrow_mut() = initial;
    let mut session =
        Session { context, output, autosave, save_error: None, rust: RustPrompt::default() };
    loop {
        let quits = match editor.line() {
            Ok(Input::Text(text)) => session.run(&text) == Outcome::Quit,
            Ok(Input::Refused(message, hint)) => {
                output.error("", &Error::Refused { message, hint: hint.into() }.into());
                false
            }
            Err(ReadlineError::Interrupted) => false,
            Err(ReadlineError::Eof) => true,
            // The terminal is gone. The autosave is kept.
            Err(error) => return Err(error),
        };
        if quits && confirm::quit(&mut editor, &session.context, output)? {
            session.autosave.into_iter().for_each(Autosave::end);
            return Ok(());
        }
    }
}

/// The state of a running session.
struct Session<'a> {
    context: Rc<RefCell<Context>>,
    output: &'a Output,
    autosave: Option<Autosave>,
    /// Why the last autosave failed, if it did.
    save_error: Option<String>,
    rust: RustPrompt,
}

impl Session<'_> {
    /// Runs the statements of a line and autosaves after each. An error or an interrupt ends the
    /// line.
    fn run(&mut self, text: &str) -> Outcome {
        interrupt::clear();
        let mut outcome = Outcome::Continue;
        let all = statements(text).unwrap_or_default();
        for (i, each) in all.iter().enumerate() {
            outcome = match at_prompt(&each.verb) {
                Some(AtPrompt::Rust) => self.rust(&each.verb),
                _ => statement(each, &mut self.context.borrow_mut(), self.output),
            };
            // An interrupt stops the verb; its result is still autosaved.
            interrupt::clear();
            let saved = self
                .autosave
                .as_ref()
                .map(|autosave| autosave.save(&mut self.context.borrow_mut()));
            let save_error = saved.and_then(Result::err).map(|error| format!("{error:#}"));
            // The cause may pass, so autosave is retried after every verb; each error is reported
            // once.
            if let Some(error) = save_error.as_ref().filter(|_| save_error != self.save_error) {
                note(&format!("autosave failed; it will be retried after the next verb: {error}"));
            }
            self.save_error = save_error;
            if outcome == Outcome::Stopped {
                report_skipped(&all[i + 1..], self.output);
            }
            if outcome != Outcome::Continue {
                break;
            }
        }
        outcome
    }

    /// Opens the Rust prompt.
    fn rust(&mut self, verb: &str) -> Outcome {
        match self.rust.run(&mut self.context.borrow_mut(), self.output) {
            Ok(()) => Outcome::Continue,
            Err(error) => {
                self.output.error(verb, &error);
                Outcome::Failed
            }
        }
    }
}

/// Stands in for the Rust prompt in builds without evcxr.
#[cfg(not(feature = "jupyter"))]
#[derive(Default)]
struct RustPrompt {}

#[cfg(not(feature = "jupyter"))]
impl RustPrompt {
    fn run(&self, _: &mut Context, _: &Output) -> anyhow::Result<()> {
        let hint = "cargo install --locked --path . --features jupyter";
        Err(Error::Refused {
            message: "this `dam` was built without the Rust prompt".into(),
            hint: hint.into(),
        }
        .into())
    }
}
