//! The interactive loop: a line at a time, errors do not end it. Input that is not a terminal is a script.

use std::io::{IsTerminal, Read};

use dam_prelude::verbs::{Context, is_complete, statements};
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, Result};

use crate::render::Output;
use crate::run::{After, script, statement};

/// Reads and runs until `quit` or the end of input. Tells whether all went well.
pub fn repl(output: &Output) -> bool {
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
    match interact(output) {
        Ok(()) => true,
        Err(error) => {
            output.error("", &error.into());
            false
        }
    }
}

fn interact(output: &Output) -> Result<()> {
    let mut editor = DefaultEditor::new()?;
    let mut context = Context::default();
    if !output.json {
        output.say("DAM Lab: merge language models one step at a time. `help` lists the verbs, Ctrl-D leaves.");
    }
    let mut pending = String::new();
    loop {
        let line = match editor.readline(if pending.is_empty() { "dam> " } else { "...> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error),
        };
        pending.push_str(&line);
        if !is_complete(&pending) {
            if !output.json && !pending.contains('\n') {
                output.say("a quotation mark is open: close it, or begin anew with Ctrl-C");
            }
            pending.push('\n');
            continue;
        }
        let text = std::mem::take(&mut pending);
        editor.add_history_entry(&text)?;
        for each in statements(&text).unwrap_or_default() {
            match statement(&each, &mut context, output) {
                After::Next => {}
                After::Failed => break,
                After::Quit => return Ok(()),
            }
        }
    }
}
