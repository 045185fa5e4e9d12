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
    while let Some(left) = Left::last().filter(|_| !output.json) {
        match offer(editor, left, output)? {
            Offered::Taken(taken) => return Ok((Some(taken.0), taken.1)),
            Offered::Later => break,
            Offered::Gone => {}
        }
    }
    match Autosave::begin() {
        Ok(autosave) => Ok((Some(autosave), Context::default())),
        Err(error) => {
            note(&format!("this session is not kept as it goes: {error:#}"));
            Ok((None, Context::default()))
        }
    }
}

/// What became of a session that was offered.
enum Offered {
    Taken(Box<(Autosave, Context)>),
    /// It stays for another time.
    Later,
    /// It is deleted, and another may be offered.
    Gone,
}

/// Asks whether to go on with `left`.
fn offer(editor: &mut Editor, left: Left, output: &Output) -> Result<Offered> {
    let Ok(summary) = left.summary() else {
        return Ok(gone(left));
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
                Ok(recovered) => return Ok(Offered::Taken(Box::new(recovered))),
                Err(error) => {
                    output.error("", &error);
                    return Ok(Offered::Later);
                }
            },
            "n" | "no" => return Ok(Offered::Later),
            "d" | "delete" => return Ok(gone(left)),
            _ => {}
        }
    }
}

/// Deletes a session; one that cannot be deleted stays, and would be offered again.
fn gone(left: Left) -> Offered {
    if left.forget() { Offered::Gone } else { Offered::Later }
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
