//! At startup: creates the autosave of this session, or resumes an earlier session that ended unexpectedly.

use std::time::SystemTime;

use dam_prelude::verbs::Context;
use rustyline::Result;
use rustyline::error::ReadlineError;

use crate::render::{Output, note};

use super::autosave::{Autosave, Left};
use super::editor::{Editor, Line};

/// The initial session and its autosave; no autosave if its directory cannot be created.
pub fn begin(editor: &mut Editor, output: &Output) -> Result<(Option<Autosave>, Context)> {
    let mut all = if output.json { Vec::new() } else { readable(output) };
    while !all.is_empty() {
        match ask(editor, &all, output)? {
            Answer::GoOn(place) => match Autosave::recover(all.remove(place).0) {
                Ok((autosave, context, notes)) => {
                    notes.iter().for_each(|text| output.say(text));
                    return Ok((Some(autosave), context));
                }
                Err((left, error)) => {
                    output.error("", &error);
                    output.say(&left.whereabouts());
                    break;
                }
            },
            Answer::Later => break,
            // A session that cannot be deleted is offered again at the next start.
            Answer::Delete(place) => drop(all.remove(place).0.forget()),
        }
    }
    match Autosave::begin() {
        Ok(autosave) => Ok((Some(autosave), Context::default())),
        Err(error) => {
            note(&format!("autosave is off: {error:#}"));
            Ok((None, Context::default()))
        }
    }
}

/// The sessions that can be resumed, latest first, each with its summary. Unreadable ones are set aside, never deleted.
fn readable(output: &Output) -> Vec<(Left, String)> {
    let mut readable = Vec::new();
    for left in Left::all() {
        match left.summary() {
            Ok(summary) => readable.push((left, summary)),
            Err(error) => {
                output.say(&format!("a session ended unexpectedly {} and cannot be read: {error}", ago(left.when)));
                output.say(&left.set_aside());
            }
        }
    }
    readable
}

/// What to do with the sessions offered.
enum Answer {
    /// Resume this one.
    GoOn(usize),
    /// Keep all of them and ask again at the next start.
    Later,
    /// Delete this one.
    Delete(usize),
}

/// Asks whether to resume one of `all`.
fn ask(editor: &mut Editor, all: &[(Left, String)], output: &Output) -> Result<Answer> {
    let question = match all {
        [(left, summary)] => {
            output.say(&format!("a session ended unexpectedly {}: {summary}", ago(left.when)));
            "resume it? [y]es, [n]o (ask again next time), [d]elete it: "
        }
        _ => {
            output.say(&format!("{} sessions ended unexpectedly:", all.len()));
            for (number, (left, summary)) in all.iter().enumerate() {
                output.say(&format!("{:3}  {}: {summary}", number + 1, ago(left.when)));
            }
            "resume which? a number (Enter: 1), [n]one (ask again next time), [d]elete and a number: "
        }
    };
    loop {
        let answer = match editor.ask(question) {
            Ok(Line::Text(text)) => text.trim().to_lowercase(),
            Ok(Line::Refused(..)) => continue,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => "n".into(),
            Err(error) => return Err(error),
        };
        if let Some(answer) = read(&answer, all.len()) {
            return Ok(answer);
        }
    }
}

/// The meaning of `answer` when `count` sessions are offered; none if the question must be repeated.
fn read(answer: &str, count: usize) -> Option<Answer> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| (1..=count).contains(n)).map(|n| n - 1);
    match answer {
        "" | "y" | "yes" => Some(Answer::GoOn(0)),
        "n" | "no" => Some(Answer::Later),
        "d" | "delete" if count == 1 => Some(Answer::Delete(0)),
        _ => match answer.strip_prefix("delete").or_else(|| answer.strip_prefix('d')) {
            Some(rest) => number(rest).map(Answer::Delete),
            None => number(answer).map(Answer::GoOn),
        },
    }
}

/// The time since `when`, in words.
fn ago(when: SystemTime) -> String {
    let minutes = SystemTime::now().duration_since(when).map_or(0, |d| d.as_secs() / 60);
    match minutes {
        0 => "just now".into(),
        1 => "1 minute ago".into(),
        2..=119 => format!("{minutes} minutes ago"),
        120..=2879 => format!("{} hours ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}
