//! Whether one may leave: where training is not saved, that is asked first.

use std::cell::RefCell;

use dam_prelude::verbs::{Context, statements};
use rustyline::Result;
use rustyline::error::ReadlineError;

use crate::render::Output;
use crate::run::{After, statement};

use super::editor::{Editor, Line};

/// What was answered.
enum Answer {
    Leave,
    Stay,
    Save(String),
    Other,
}

/// Whether the session may end. Asks where there is training that nothing has saved; who says nothing twice leaves.
pub fn may(editor: &mut Editor, context: &RefCell<Context>, output: &Output) -> Result<bool> {
    loop {
        let unsaved = context.borrow().unsaved();
        if unsaved == 0 {
            return Ok(true);
        }
        let (steps, are) = if unsaved == 1 { ("step", "is") } else { ("steps", "are") };
        let question = format!("{unsaved} {steps} of training {are} not saved: leave? [y]es, [n]o, or save FILE: ");
        let answer = match editor.ask(&question) {
            Ok(Line::Text(text)) => read(&text),
            Ok(Line::Refused(..)) => Answer::Other,
            Err(ReadlineError::Eof) => Answer::Leave,
            Err(ReadlineError::Interrupted) => Answer::Stay,
            Err(error) => return Err(error),
        };
        match answer {
            Answer::Leave => return Ok(true),
            Answer::Stay => return Ok(false),
            Answer::Save(text) => {
                for each in statements(&text).unwrap_or_default() {
                    if statement(&each, &mut context.borrow_mut(), output) != After::Next {
                        break;
                    }
                }
            }
            Answer::Other => output.say("answer y, n, or save and the name of a file: save merge.dam.safetensors"),
        }
    }
}

fn read(text: &str) -> Answer {
    match text.trim().to_lowercase().as_str() {
        "y" | "yes" => Answer::Leave,
        "n" | "no" | "" => Answer::Stay,
        answer if answer.starts_with("save ") => Answer::Save(text.trim().to_owned()),
        _ => Answer::Other,
    }
}
