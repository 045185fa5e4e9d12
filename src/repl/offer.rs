//! At the begin: a place where the session is kept, and the offer to go on with one that ended without being left.

use std::time::SystemTime;

use dam_prelude::verbs::Context;
use rustyline::Result;
use rustyline::error::ReadlineError;

use crate::render::{Output, note};

use super::autosave::{Autosave, Left};
use super::editor::{Editor, Line};

/// The session to begin with, and where it is kept; without a place it is not.
pub fn begin(editor: &mut Editor, output: &Output) -> Result<(Option<Autosave>, Context)> {
    if let Some(left) = Left::last().filter(|_| !output.json)
        && let Some((autosave, context)) = offer(editor, left, output)?
    {
        return Ok((Some(autosave), context));
    }
    match Autosave::begin() {
        Ok(autosave) => Ok((Some(autosave), Context::default())),
        Err(error) => {
            note(&format!("this session is not kept as it goes: {error:#}"));
            Ok((None, Context::default()))
        }
    }
}

/// Asks whether to go on with `left`.
fn offer(editor: &mut Editor, left: Left, output: &Output) -> Result<Option<(Autosave, Context)>> {
    let Ok(summary) = left.summary() else {
        left.forget();
        return Ok(None);
    };
    output.say(&format!("a session ended without being left, {}: {summary}", ago(left.when)));
    loop {
        let answer = match editor.ask("go on with it? [y]es, [n]o and ask again next time, [d]elete it: ") {
            Ok(Line::Text(text)) => text.trim().to_lowercase(),
            Ok(Line::Refused(..)) => continue,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => "n".into(),
            Err(error) => return Err(error),
        };
        match answer.as_str() {
            "" | "y" | "yes" => match Autosave::recover(left) {
                Ok(recovered) => return Ok(Some(recovered)),
                Err(error) => {
                    output.error("", &error);
                    return Ok(None);
                }
            },
            "n" | "no" => return Ok(None),
            "d" | "delete" => {
                left.forget();
                return Ok(None);
            }
            _ => {}
        }
    }
}

/// How long ago, as one says it.
fn ago(when: SystemTime) -> String {
    let minutes = SystemTime::now().duration_since(when).map_or(0, |d| d.as_secs() / 60);
    match minutes {
        0 => "just now".into(),
        1 => "a minute ago".into(),
        2..=119 => format!("{minutes} minutes ago"),
        120..=2879 => format!("{} hours ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}
