//! Confirms the end of the session: unsaved training is reported first.

use std::cell::RefCell;

use dam_prelude::verbs::{Context, Timeline, statements};
use rustyline::Result;
use rustyline::error::ReadlineError;

use crate::run::{Outcome, statement};
use crate::terminal::render::Output;

use super::editor::{Editor, Input};

/// The answer to the question.
enum QuitAnswer {
    Quit,
    Stay,
    Save(String),
    Unclear,
}

/// Whether the session may end. Asks first if there is unsaved training; Ctrl-D at the question
/// ends the session.
pub fn quit(editor: &mut Editor, context: &RefCell<Context>, output: &Output) -> Result<bool> {
    loop {
        let Some(unsaved) = unsaved_steps(context.borrow().timeline()) else { return Ok(true) };
        let question = format!("{unsaved} not saved: quit anyway? [y]es, [n]o, or save FILE: ");
        let answer = match editor.ask(&question) {
            Ok(Input::Text(text)) => parse(&text),
            Ok(Input::Refused(..)) => QuitAnswer::Unclear,
            Err(ReadlineError::Eof) => QuitAnswer::Quit,
            Err(ReadlineError::Interrupted) => QuitAnswer::Stay,
            Err(error) => return Err(error),
        };
        match answer {
            QuitAnswer::Quit => return Ok(true),
            QuitAnswer::Stay => return Ok(false),
            QuitAnswer::Save(text) => {
                crate::interrupt::clear();
                for each in statements(&text).unwrap_or_default() {
                    if statement(&each, &mut context.borrow_mut(), output) != Outcome::Continue {
                        break;
                    }
                }
            }
            QuitAnswer::Unclear => {
                output.print("answer y, n, or save FILE, for example save merge.dam.safetensors")
            }
        }
    }
}

/// The number of unsaved steps, in words, with the branches that have them unless that is only the
/// current one; none if all steps are saved.
fn unsaved_steps(timeline: &Timeline) -> Option<String> {
    let all = timeline.unsaved();
    let count: usize = all.iter().map(|(_, steps)| steps).sum();
    let (steps, are) = if count == 1 { ("step", "is") } else { ("steps", "are") };
    let places = match all.as_slice() {
        [] => return None,
        [(branch, _)] if *branch == timeline.branch() => String::new(),
        all => format!(
            " ({})",
            all.iter()
                .map(|(branch, steps)| format!("{branch}: {steps}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    Some(format!("{count} {steps} of training{places} {are}"))
}

fn parse(text: &str) -> QuitAnswer {
    match text.trim().to_lowercase().as_str() {
        "y" | "yes" => QuitAnswer::Quit,
        "n" | "no" | "" => QuitAnswer::Stay,
        answer if answer.starts_with("save ") => QuitAnswer::Save(text.trim().to_owned()),
        _ => QuitAnswer::Unclear,
    }
}
