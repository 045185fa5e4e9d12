//! Runs statements: from `-c`, a file, or one line of the REPL.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use dam_prelude::Error;
use dam_prelude::checkpoint::read_file;
use dam_prelude::verbs::{self, AtPrompt, Context, Reply, Statement, statements};

use crate::interrupt::{self, RunGuard};
use crate::terminal::render::{Output, note};

/// How a statement ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Continue,
    Failed,
    /// A stop was requested: the rest of the line or script does not run.
    Stopped,
    Quit,
}

/// How a script or the whole program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    Failed,
    Stopped,
}

impl End {
    /// `Done` on success, else `Failed`.
    pub fn of(went_well: bool) -> Self {
        if went_well { Self::Done } else { Self::Failed }
    }

    /// The exit status of the program.
    pub fn code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Failed => ExitCode::FAILURE,
            Self::Stopped => ExitCode::from(interrupt::STATUS),
        }
    }
}

/// Runs one statement; returns its reply and its duration in seconds.
///
/// # Errors
/// The verb is unknown or fails.
pub fn reply(statement: &Statement, context: &mut Context) -> Result<(Reply, f64)> {
    let _running = RunGuard::statement();
    let start = Instant::now();
    // A panic ends the verb but not the session: earlier work is kept.
    let done = catch_unwind(AssertUnwindSafe(|| context.run(statement)));
    let reply = done.unwrap_or_else(|_| {
        let hint = "this is a bug in dam: please report the steps that led to it".into();
        Err(Error::Refused { message: format!("internal error in `{}`", statement.verb), hint })
    })?;
    Ok((reply, start.elapsed().as_secs_f64()))
}

/// Runs one statement and prints its reply.
pub fn statement(statement: &Statement, context: &mut Context, output: &Output) -> Outcome {
    let outcome = match reply(statement, context) {
        Ok((reply, seconds)) => {
            output.reply(&statement.verb, seconds, &reply);
            match verbs::at_prompt(&statement.verb) {
                Some(AtPrompt::Quit) => Outcome::Quit,
                _ => Outcome::Continue,
            }
        }
        Err(error) => {
            output.error(&statement.verb, &error);
            Outcome::Failed
        }
    };
    if interrupt::requested() { Outcome::Stopped } else { outcome }
}

/// Reports the statements that a stop skipped.
pub fn report_skipped(rest: &[Statement], output: &Output) {
    let rest: Vec<String> = rest.iter().map(verbs::line).collect();
    if !rest.is_empty() && !output.json {
        note(&format!("stopped; not run: {}", rest.join("; ")));
    }
}

/// Runs all statements of `text`, up to the first error or stop.
pub fn script(text: &str, output: &Output) -> End {
    run_text(text, None, output)
}

/// [`script`] from standard input.
pub fn input(text: &str, output: &Output) -> End {
    run_text(text.trim_start_matches('\u{feff}'), Some(Path::new("standard input")), output)
}

/// [`script`] with errors located by their line in `file`.
fn run_text(text: &str, file: Option<&Path>, output: &Output) -> End {
    interrupt::clear();
    let all = match statements(text) {
        Ok(all) => all,
        Err(error) => {
            let hint =
                "close it; text with an apostrophe needs double quotes: \"What's new?\"".into();
            output.error("", &Error::Refused { message: error.to_string(), hint }.into());
            return End::Failed;
        }
    };
    let mut context = Context::default();
    for (i, each) in all.iter().enumerate() {
        match statement(each, &mut context, output) {
            Outcome::Continue => {}
            Outcome::Stopped => {
                report_skipped(&all[i + 1..], output);
                return End::Stopped;
            }
            Outcome::Failed => {
                if let Some(file) = file.filter(|_| !output.json) {
                    note(&format!("at line {} of {}: {}", each.line, file.display(), each.verb));
                }
                return End::Failed;
            }
            Outcome::Quit => break,
        }
    }
    End::Done
}

/// Runs the statements of a file.
pub fn file(path: &Path, output: &Output) -> End {
    /// The largest script, in bytes.
    const MOST: u64 = 64 << 20;
    let invalid = |e| Error::Io {
        action: "read",
        path: path.into(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, e),
    };
    match read_file(path, MOST).and_then(|bytes| String::from_utf8(bytes).map_err(invalid)) {
        Ok(text) => run_text(text.trim_start_matches('\u{feff}'), Some(path), output),
        Err(error) => {
            let error = match error {
                Error::NotFound { .. } => Error::Refused {
                    message: format!("`{}` is neither a file nor a command", path.display()),
                    hint: "dam --help lists the commands; verbs run at the prompt, in a script, or in dam -c \"VERBS\"".into(),
                },
                error => error,
            };
            output.error("run", &error.into());
            End::Failed
        }
    }
}
