//! `rust`: the session goes on in Rust, where the merge is the variable `dam`, and comes back as what it became.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;
use dam_prelude::checkpoint::private_directory;
use dam_prelude::train::KEYS;
use dam_prelude::verbs::Context;
use dam_prelude::{Dam, Error, Settings};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Helper};

use crate::interrupt::{Running, on_stop};
use crate::kernel::Rust;
use crate::render::Output;
use crate::terminal::state_directory;

use super::history::Lines;

/// Rust, once it was asked for: what is defined there stays.
#[derive(Default)]
pub struct Prompt {
    rust: Option<Rc<RefCell<Rust>>>,
    files: Option<tempfile::TempDir>,
    /// What was handed over last.
    given: Option<u64>,
}

/// What one types to come back.
const BACK: &str = "back";

impl Prompt {
    /// Goes on in Rust with `context`, until one comes back.
    ///
    /// # Errors
    /// No compiler, or a merge that cannot be handed over.
    pub fn run(&mut self, context: &mut Context, output: &Output) -> Result<()> {
        let rust = self.rust()?;
        self.give(context, &rust)?;
        let what = if context.dam.is_some() { "the merge is `dam`" } else { "the sources are `models`, with data and settings" };
        output.say(&format!("Rust: {what}, the prelude is in scope, `%step 50` runs a verb; `back` or Ctrl-D comes back."));
        read(&rust)?;
        self.take(context, &rust, output)
    }

    fn rust(&mut self) -> Result<Rc<RefCell<Rust>>> {
        if let Some(rust) = &self.rust {
            return Ok(rust.clone());
        }
        let _running = Running::new();
        let rust = Rc::new(RefCell::new(Rust::start()?));
        self.files = Some(private_directory("dam-rust-")?);
        self.rust = Some(rust.clone());
        Ok(rust)
    }

    /// A file to hand something over in.
    fn file(&self, name: &str) -> Result<std::path::PathBuf> {
        let files = self.files.as_ref().ok_or_else(|| {
            anyhow::anyhow!("there is no place for what is handed over: set TMPDIR to a directory you may write to")
        })?;
        Ok(files.path().join(name))
    }

    /// Hands over the merge or, where there is none yet, the sources, unless Rust has them already.
    fn give(&mut self, context: &Context, rust: &RefCell<Rust>) -> Result<()> {
        let cell = match &context.dam {
            Some(dam) if self.given == Some(dam.state()) => return Ok(()),
            Some(dam) => {
                let file = self.file("given")?;
                dam.save(&file)?;
                self.given = Some(dam.state());
                format!("let dam = Dam::open({file:?})?;")
            }
            None => {
                let models = context.current();
                let sources: Vec<String> =
                    models.names().map(|n| Ok(format!("{n}={}", models.source(n)?.spec()))).collect::<Result<_>>()?;
                if sources.is_empty() {
                    return Ok(());
                }
                let mut lines = vec![format!("let mut models = load({sources:?})?;")];
                for name in models.names() {
                    let spec = models.data_spec(name).map(|spec| format!("models.data({name:?}, {spec:?})?;"));
                    lines.extend(spec);
                }
                for key in KEYS {
                    let value = models.settings.get(key).filter(|value| Settings::default().get(key).as_ref() != Some(value));
                    lines.extend(value.map(|value| format!("models.settings.set({key:?}, {value:?})?;")));
                }
                lines.join("\n")
            }
        };
        let _running = Running::new();
        rust.borrow_mut().run(&cell).map_err(|failure| anyhow::anyhow!("{}", failure.message))
    }

    /// Takes the merge back as what it became.
    fn take(&mut self, context: &mut Context, rust: &RefCell<Rust>, output: &Output) -> Result<()> {
        let (given, taken) = (self.file("given")?, self.file("taken")?);
        if rust.borrow().save(&taken).is_err() {
            // Nothing was wrapped there.
            return Ok(());
        }
        if std::fs::read(&given).ok() == std::fs::read(&taken).ok() {
            output.say("the merge is as it was");
            return Ok(());
        }
        match Dam::open(&taken) {
            Ok(dam) => {
                output.say(&format!("the merge is as Rust made it: step {}; undo goes back to before", dam.steps()));
                self.given = Some(dam.state());
                std::fs::copy(&taken, &given)?;
                context.wrapped(dam);
                Ok(())
            }
            Err(Error::UnknownScheme { scheme, .. }) => {
                let message = format!("the merge in Rust has the scheme `{scheme}`, which only Rust knows: it stays there");
                let hint = "rust goes on with it, and verbs run there too: %train 50, %eval --all, %bake merged";
                Err(Error::Refused { message, hint: hint.into() }.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads and runs Rust until one comes back.
fn read(rust: &Rc<RefCell<Rust>>) -> Result<()> {
    let history = Lines::open(state_directory().map(|state| state.join("rust_history")));
    let mut editor = rustyline::Editor::<Typing, Lines>::with_history(Config::builder().build(), history)?;
    editor.set_helper(Some(Typing(rust.clone())));
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
        let _running = Running::new();
        if let Err(failure) = rust.borrow_mut().run(&line) {
            eprintln!("{}", failure.told());
        }
    }
    Ok(())
}

/// What the editor asks while one types.
struct Typing(Rc<RefCell<Rust>>);

impl Helper for Typing {}
impl Hinter for Typing {
    type Hint = String;
}
impl Highlighter for Typing {}

impl Validator for Typing {
    fn validate(&self, typed: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if Rust::goes_on(typed.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Typing {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let Ok(mut rust) = self.0.try_borrow_mut() else { return Ok((position, Vec::new())) };
        let (start, words) = rust.complete(line, position);
        Ok((start, words.into_iter().map(|word| Pair { display: word.clone(), replacement: word }).collect()))
    }
}
