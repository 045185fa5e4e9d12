//! At startup: creates the autosave of this session, or resumes an earlier session that ended
//! unexpectedly.

use std::time::SystemTime;

use dam_prelude::verbs::Context;
use rustyline::Result;
use rustyline::error::ReadlineError;

use crate::terminal::render::{Output, note};

use super::autosave::{Autosave, UnfinishedSession};
use super::editor::{Editor, Input};

/// The initial session and its autosave; no autosave if its directory cannot be created.
pub fn begin(editor: &mut Editor, output: &Output) -> Result<(Option<Autosave>, Context)> {
    let mut all = if output.json { Vec::new() } else { readable(output) };
    while !all.is_empty() {
        match ask(editor, &all, output)? {
            ResumeAnswer::Resume(index) => match Autosave::recover(all.remove(index).0) {
                Ok((autosave, context, notes)) => {
                    notes.iter().for_each(|text| output.print(text));
                    return Ok((Some(autosave), context));
                }
                Err((session, error)) => {
                    output.error("", &error);
                    output.print(&session.location());
                    break;
                }
            },
            ResumeAnswer::Later => break,
            // A session that cannot be deleted is offered again at the next start.
            ResumeAnswer::Delete(index) => drop(all.remove(index).0.delete()),
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

/// The sessions that can be resumed, latest first, each with its summary. Unreadable ones are set
/// aside, never deleted.
fn readable(output: &Output) -> Vec<(UnfinishedSession, String)> {
    let mut readable = Vec::new();
    for session in UnfinishedSession::all() {
        match session.summary() {
            Ok(summary) => readable.push((session, summary)),
            Err(error) => {
                output.print(&format!(
                    "a session ended unexpectedly {} and cannot be read: {error}",
                    ago(session.when)
                ));
                output.print(&session.set_aside());
            }
        }
    }
    readable
}

/// What to do with the sessions offered.
enum ResumeAnswer {
    /// Resume this one.
    Resume(usize),
    /// Keep all of them and ask again at the next start.
    Later,
    /// Delete this one.
    Delete(usize),
}

/// Asks whether to resume one of `all`.
fn ask(
    editor: &mut Editor,
    all: &[(UnfinishedSession, String)],
    output: &Output,
) -> Result<ResumeAnswer> {
    let question = match all {
        [(session, summary)] => {
            output.print(&format!("a session ended unexpectedly {}: {summary}", ago(session.when)));
            "resume it? [y]es, [n]o (ask again next time), [d]elete it: "
        }
        _ => {
            output.print(&format!("{} sessions ended unexpectedly:", all.len()));
            for (number, (session, summary)) in all.iter().enumerate() {
                output.print(&format!("{:3}  {}: {summary}", number + 1, ago(session.when)));
            }
            "resume one? its number (Enter: 1), [n]o (ask again next time), [d]elete and its number: "
        }
    };
    loop {
        let answer = match editor.ask(question) {
            Ok(Input::Text(text)) => text.trim().to_lowercase(),
            Ok(Input::Refused(..)) => continue,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => "n".into(),
            Err(error) => return Err(error),
        };
        if let Some(answer) = parse(&answer, all.len()) {
            return Ok(answer);
        }
    }
}

/// The meaning of `answer` when `count` sessions are offered; none if the question must be
/// repeated.
fn parse(answer: &str, count: usize) -> Option<ResumeAnswer> {
    let number = |text: &str| {
        text.trim().parse::<usize>().ok().filter(|n| (1..=count).contains(n)).map(|n| n - 1)
    };
    match answer {
        "" | "y" | "yes" => Some(ResumeAnswer::Resume(0)),
        "n" | "no" => Some(ResumeAnswer::Later),
        "d" | "delete" if count == 1 => Some(ResumeAnswer::Delete(0)),
        _ => match answer.strip_prefix("delete").or_else(|| answer.strip_prefix('d')) {
            Some(rest) => number(rest).map(ResumeAnswer::Delete),
            None => number(answer).map(ResumeAnswer::Resume),
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
