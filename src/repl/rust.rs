//! The verb `rust`: continues the session at a Rust prompt, where the merge is the variable `dam`,
//! and imports the result.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;
use dam_prelude::checkpoint::private_directory;
use dam_prelude::train::SETTINGS;
use dam_prelude::verbs::Context;
use dam_prelude::{Dam, Error, Settings};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Helper};

use super::state::state_directory;
use crate::interrupt::{RunGuard, on_stop};
use crate::kernel::RustSession;
use crate::terminal::render::Output;

use super::history::LineHistory;

/// The Rust prompt. It starts at the first `rust`, and its definitions last until the session ends.
#[derive(Default)]
pub struct RustPrompt {
    rust: Option<Rc<RefCell<RustSession>>>,
    files: Option<tempfile::TempDir>,
    /// The state of the merge exported last.
    exported: Option<u64>,
}

/// The line that returns to the verbs.
const BACK: &str = "back";

impl RustPrompt {
    /// Runs the Rust prompt on `context` until the user returns.
    ///
    /// # Errors
    /// There is no compiler, or the merge cannot be exported.
    pub fn run(&mut self, context: &mut Context, output: &Output) -> Result<()> {
        let rust = self.rust()?;
        self.export(context, &rust)?;
        let what = if context.dam.is_some() {
            "the merge is `dam`"
        } else {
            "the sources are `models`, with data and settings"
        };
        output.print(&format!("Rust: {what}, the prelude is in scope, `%step 50` runs a verb; `back` or Ctrl-D returns."));
        read_lines(&rust)?;
        self.import(context, &rust, output)
    }

    fn rust(&mut self) -> Result<Rc<RefCell<RustSession>>> {
        if let Some(rust) = &self.rust {
            return Ok(rust.clone());
        }
        let _running = RunGuard::new();
        let rust = Rc::new(RefCell::new(RustSession::start()?));
        self.files = Some(private_directory("dam-rust-")?);
        self.rust = Some(rust.clone());
        Ok(rust)
    }

    /// The path of an exchange file.
    fn file(&self, name: &str) -> Result<std::path::PathBuf> {
        let files = self.files.as_ref().ok_or_else(|| {
            anyhow::anyhow!(
                "no temporary directory to exchange the merge: set TMPDIR to a writable directory"
            )
        })?;
        Ok(files.path().join(name))
    }

    /// Exports the merge to Rust or, if there is none, the sources, data and settings; does nothing
    /// if Rust already has this state.
    fn export(&mut self, context: &Context, rust: &RefCell<RustSession>) -> Result<()> {
        let cell = match &context.dam {
            Some(dam) if self.exported == Some(dam.state()) => return Ok(()),
            Some(dam) => {
                let file = self.file("given")?;
                dam.save(&file)?;
                self.exported = Some(dam.state());
                format!("let dam = Dam::open({file:?})?;")
            }
            None => {
                let models = context.current();
                let sources: Vec<String> = models
                    .names()
                    .map(|n| Ok(format!("{n}={}", models.source(n)?.spec())))
                    .collect::<Result<_>>()?;
                if sources.is_empty() {
                    return Ok(());
                }
                let mut lines = vec![format!("let mut models = load({sources:?})?;")];
                for name in models.names() {
                    let spec = models
                        .data_spec(name)
                        .map(|spec| format!("models.data({name:?}, {spec:?})?;"));
                    lines.extend(spec);
                }
                for key in SETTINGS.iter().map(|setting| setting.key) {
                    let value = models
                        .settings
                        .get(key)
                        .filter(|value| Settings::default().get(key).as_ref() != Some(value));
                    lines.extend(
                        value.map(|value| format!("models.settings.set({key:?}, {value:?})?;")),
                    );
                }
                lines.join("\n")
            }
        };
        let _running = RunGuard::new();
        rust.borrow_mut().run(&cell).map_err(|failure| anyhow::anyhow!("{}", failure.message))
    }

    /// Imports the merge from Rust.
    fn import(
        &mut self,
        context: &mut Context,
        rust: &RefCell<RustSession>,
        output: &Output,
    ) -> Result<()> {
        let (exported, imported) = (self.file("given")?, self.file("taken")?);
        if rust.borrow().save(&imported).is_err() {
            // Rust has no merge.
            return Ok(());
        }
        if std::fs::read(&exported).ok() == std::fs::read(&imported).ok() {
            output.print("the merge is unchanged");
            return Ok(());
        }
        match Dam::open(&imported) {
            Ok(dam) => {
                output.print(&format!(
                    "the merge now comes from Rust: step {}; `undo` restores the previous one",
                    dam.steps()
                ));
                self.exported = Some(dam.state());
                std::fs::copy(&imported, &exported)?;
                context.wrapped(dam);
                Ok(())
            }
            Err(Error::UnknownScheme { scheme, .. }) => {
                let message = format!(
                    "the merge in Rust uses the scheme `{scheme}`, which is defined only there: it was not imported"
                );
                let hint = "`rust` continues with it; verbs run there too: %train 50, %eval --all, %bake merged";
                Err(Error::Refused { message, hint: hint.into() }.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads and runs Rust until the user returns.
fn read_lines(rust: &Rc<RefCell<RustSession>>) -> Result<()> {
    let history = LineHistory::open(state_directory().map(|state| state.join("rust_history")));
    let mut editor = rustyline::Editor::<RustHelper, LineHistory>::with_history(
        Config::builder().build(),
        history,
    )?;
    editor.set_helper(Some(RustHelper(rust.clone())));
    loop {
        let line = match editor.readline("rust> ") {
            Ok(line) if line.trim() == BACK => break,
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        editor.add_history_entry(&line)?;
        let interrupt = rust.borrow().interrupt();
        let _stop = on_stop(interrupt);
        let _running = RunGuard::new();
        if let Err(failure) = rust.borrow_mut().run(&line) {
            eprintln!("{}", failure.rendered());
        }
    }
    Ok(())
}

/// The callbacks of rustyline.
struct RustHelper(Rc<RefCell<RustSession>>);

impl Helper for RustHelper {}
impl Hinter for RustHelper {
    type Hint = String;
}
impl Highlighter for RustHelper {}

impl Validator for RustHelper {
    fn validate(&self, typed: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if RustSession::is_incomplete(typed.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Completer for RustHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let Ok(mut rust) = self.0.try_borrow_mut() else { return Ok((position, Vec::new())) };
        let (start, words) = rust.complete(line, position);
        Ok((
            start,
            words
                .into_iter()
                .map(|word| Pair { display: word.clone(), replacement: word })
                .collect(),
        ))
    }
}
