//! Runs cells, one after the other, and answers what needs evcxr: completion and documentation.

use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use dam_prelude::verbs::{self, Context, find, quoted};
use evcxr::{CompilationError, Error, Theme};
use serde_json::{Value, json};

use super::code;
use super::engine::Engine;
use super::link::Link;
use super::output::{Failure, Output};

/// A second interrupt within this time ends the cells' process.
const AGAIN: Duration = Duration::from_secs(5);

/// What runs cells, shared with what stops them.
pub struct Cells {
    link: Arc<Link>,
    output: Arc<Output>,
    socket: PathBuf,
    running: AtomicBool,
    /// When a stop was asked for last.
    stopped: Mutex<Option<Instant>>,
    /// evcxr's child.
    process: Mutex<Option<Arc<Mutex<Child>>>>,
}

impl Cells {
    pub fn new(link: Arc<Link>, output: Arc<Output>, socket: PathBuf) -> Self {
        let (running, stopped, process) = (AtomicBool::new(false), Mutex::new(None), Mutex::new(None));
        Self { link, output, socket, running, stopped, process }
    }

    /// Starts evcxr.
    ///
    /// # Errors
    /// As for [`Engine::start`].
    pub fn start(&self) -> Result<Engine> {
        self.start_telling(|| self.output.note("building the prelude for notebooks; this takes some minutes, once\n"))
    }

    /// Starts evcxr; `told` is called where the prelude has to be built first.
    ///
    /// # Errors
    /// As for [`Engine::start`].
    pub fn start_telling(&self, told: impl FnOnce()) -> Result<Engine> {
        let engine = Engine::start(Arc::clone(&self.link), &self.socket, told)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine.process());
        Ok(engine)
    }

    /// Runs a cell. What it shows goes to the output.
    ///
    /// # Errors
    /// Why it failed.
    pub fn run(&self, engine: &mut Engine, cell: &str, input: &dyn Fn(&str, bool) -> String) -> Result<(), Failure> {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.running.store(true, Ordering::SeqCst);
        self.link.begin();
        let done = self.parts(engine, cell, input);
        self.link.flush();
        let failure = self.output.end(self.link.sync());
        self.running.store(false, Ordering::SeqCst);
        failure.map_or(done, Err)
    }

    fn parts(&self, engine: &mut Engine, cell: &str, input: &dyn Fn(&str, bool) -> String) -> Result<(), Failure> {
        let (verbs, rust) = code::split(cell);
        for line in verbs {
            self.verbs(engine, line)?;
        }
        if rust.trim().is_empty() {
            return Ok(());
        }
        match engine.execute(rust, input) {
            Ok(outputs) => {
                // What evcxr's own commands say; what cells show has been seen.
                if !outputs.is_empty() {
                    self.output.show(&json!(outputs.content_by_mime_type));
                }
                if rust.lines().any(|line| [":restart", ":clear"].contains(&line.trim())) {
                    engine.attach().map_err(|e| Failure::new("error", &e.to_string(), ""))?;
                }
                Ok(())
            }
            Err(Error::CompilationErrors(errors)) => Err(compilation(rust, &errors)),
            Err(Error::SubprocessTerminated(how)) => Err(self.ended(engine, &how)),
            Err(error) => Err(Failure::new("error", &error.to_string(), "")),
        }
    }

    fn verbs(&self, engine: &mut Engine, line: &str) -> Result<(), Failure> {
        match self.link.verbs(line, |shown| self.output.show(shown)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err((message, hint))) => {
                Err(Failure::new("error", &message, &hint.map(|h| format!("hint: {h}")).unwrap_or_default()))
            }
            Err(how) => Err(self.ended(engine, &how.to_string())),
        }
    }

    /// Writes the merge that was made last to `file`, and says nothing.
    ///
    /// # Errors
    /// None was, or a place that may not be written.
    pub fn save(&self, file: &std::path::Path) -> Result<(), Failure> {
        let failed = |message: &str| Failure::new("error", message, "");
        self.link.begin();
        match self.link.verbs(&format!("save --force {}", quoted(&file.display().to_string())), |_| {}) {
            Ok(done) => done.map_err(|(message, _)| failed(&message)),
            Err(error) => Err(failed(&error.to_string())),
        }
    }

    /// The cells' process has ended: another is there, without variables.
    fn ended(&self, engine: &mut Engine, how: &str) -> Failure {
        // evcxr notices that a process is gone when it uses it, and then starts another.
        let again = engine.attach().or_else(|_| engine.attach());
        let asked = self.stopped.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let message = if asked { "the second interrupt ended the cells' process" } else { "the cells' process has ended" };
        let rest = match again {
            Ok(()) => "its variables are lost; run the cells that made them again".to_owned(),
            Err(error) => format!("no other could be started ({error:#}); restart the kernel"),
        };
        let how = if asked { "" } else { how.trim() };
        Failure::new("error", message, format!("{rest}\n{how}").trim())
    }

    /// Asks the cell that runs to stop; asked again soon, ends the cells' process.
    pub fn interrupt(&self) {
        if !self.running.load(Ordering::SeqCst) {
            return;
        }
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if stopped.is_some_and(|at| at.elapsed() < AGAIN) {
            self.link.kill();
            return;
        }
        *stopped = Some(Instant::now());
        self.link.stop();
        self.output.note("stopping after the current step; a second interrupt within 5 s ends the process and its variables\n");
    }

    /// Ends the cells' process, for good.
    pub fn shut_down(&self) {
        self.link.kill();
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process
            && let Ok(mut process) = process.try_lock()
        {
            let _ = process.kill();
        }
    }
}

/// What the compiler says, as evcxr shows it.
fn compilation(source: &str, errors: &[CompilationError]) -> Failure {
    let one = |error: &CompilationError| {
        let mut drawn = Vec::new();
        let name = "cell".to_owned();
        let report = error.build_report(name.clone(), source.to_owned(), Theme::Light);
        let written = report.map(|r| r.write((name, ariadne::Source::from(source)), &mut drawn));
        match written {
            Some(Ok(())) => String::from_utf8_lossy(&drawn).into_owned(),
            _ => error.rendered(),
        }
    };
    let message = errors.first().map(CompilationError::message).unwrap_or_default();
    Failure { name: "compiler".into(), message, lines: errors.iter().map(one).collect() }
}

/// What could stand at character `cursor` of a cell: words, and the range that they replace.
pub fn complete(engine: &mut Engine, cell: &str, cursor: usize) -> (Vec<String>, usize, usize) {
    let position = code::position(cell, cursor);
    let line = cell[..position].rsplit('\n').next().unwrap_or_default();
    if let Some(verb) = line.trim_start().strip_prefix('%') {
        // What is loaded the cells' process knows; verbs, keys, values, methods and files are known here.
        let line = verb.trim_start();
        let found = verbs::complete(&Context::default(), line, line.len());
        let typed = line.get(found.start..).unwrap_or_default().chars().count();
        return (found.candidates.into_iter().map(|found| found.text).collect(), cursor - typed, cursor);
    }
    match engine.completions(cell, position) {
        Some((start, end, words)) => {
            let words = words.iter().filter_map(|word| code::inserted(word)).collect();
            (words, code::cursor(cell, start), code::cursor(cell, end))
        }
        None => (Vec::new(), cursor, cursor),
    }
}

/// The documentation of what is at character `cursor` of a cell, in its forms by type.
pub fn inspect(engine: &mut Engine, cell: &str, cursor: usize) -> Option<Value> {
    let position = code::position(cell, cursor);
    let line = cell[..position].rsplit('\n').next().unwrap_or_default();
    if let Some(verb) = line.trim_start().strip_prefix('%') {
        let verb = find(verb.split_whitespace().next()?).ok()?;
        return Some(json!({"text/plain": format!("{}\n  {}\n  example: {}", verb.usage, verb.about, verb.example)}));
    }
    let end = code::word_end(cell, position);
    // evcxr finds methods by the bracket after them.
    let end = if cell[end..].starts_with('(') { end + 1 } else { end };
    let (text, html) = engine.documentation(cell, end)?;
    Some(json!({"text/plain": text, "text/html": html}))
}
