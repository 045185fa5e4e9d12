//! Runs cells one at a time, part by part.

use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use dam_prelude::verbs::quoted;
use evcxr::Error;
use serde_json::{Value, json};

use super::code::{Part, is_command, parts};
use super::engine::Engine;
use super::failure::Failure;
use super::output::CellOutput;
use super::parameters::parameters;
use super::report::{CompiledCode, compiler_failure, describe_position};
use crate::kernel::process::link::Link;

/// A second interrupt within this time kills the cells' process.
const KILL_WINDOW: Duration = Duration::from_secs(5);

/// The display id of the table of variables.
pub const VARIABLES: &str = "dam-variables";

/// The number of earlier cells kept, in which later errors may be located.
const EARLIER_CELLS: usize = 200;

/// Answers an input request of a cell. Arguments: the prompt, and whether the answer is a password.
/// None: there is no answer.
pub type AskUser<'a> = &'a (dyn Fn(&str, bool) -> Option<String> + Sync);

/// Runs cells; shared with the code that interrupts them.
pub struct Cells {
    link: Arc<Link>,
    output: Arc<CellOutput>,
    socket: PathBuf,
    running: AtomicBool,
    /// Whether evcxr formats values itself, which it does after `:fmt` or `:types`.
    evcxr_formats: AtomicBool,
    /// Earlier cells with their execution counts, latest first.
    earlier: Mutex<Vec<(usize, String)>>,
    /// When the last interrupt came.
    stopped: Mutex<Option<Instant>>,
    /// evcxr's child process.
    process: Mutex<Option<Arc<Mutex<Child>>>>,
    /// The table of variables last shown, if it is on display.
    table: Mutex<Option<Value>>,
}

impl Cells {
    pub fn new(link: Arc<Link>, output: Arc<CellOutput>, socket: PathBuf) -> Self {
        let (running, evcxr_formats) = (AtomicBool::new(false), AtomicBool::new(false));
        let (earlier, stopped, process, table) =
            (Mutex::default(), Mutex::new(None), Mutex::new(None), Mutex::new(None));
        Self { link, output, socket, running, evcxr_formats, earlier, stopped, process, table }
    }

    /// Starts evcxr.
    ///
    /// # Errors
    /// As for [`Engine::start`].
    pub fn start(&self) -> Result<Engine> {
        self.start_with_notice(|| {
            self.output.note("building the prelude for notebooks; this takes a few minutes, once\n")
        })
    }

    /// Starts evcxr; calls `before_build` if the prelude has to be built first.
    ///
    /// # Errors
    /// As for [`Engine::start`].
    pub fn start_with_notice(&self, before_build: impl FnOnce()) -> Result<Engine> {
        let engine = Engine::start(Arc::clone(&self.link), &self.socket, before_build)?;
        *locked(&self.process) = Some(engine.process());
        Ok(engine)
    }

    /// Runs a cell with execution count `number`. Its output goes to the output.
    ///
    /// # Errors
    /// The failure of the cell.
    pub fn run(
        &self,
        engine: &mut Engine,
        cell: &str,
        number: usize,
        ask: AskUser<'_>,
    ) -> Result<(), Failure> {
        *locked(&self.stopped) = None;
        self.link.was_build_stopped();
        self.running.store(true, Ordering::SeqCst);
        self.link.begin();
        let mut ran = String::new();
        let done = std::thread::scope(|scope| {
            let requests = self.link.input_requests();
            // Reads of standard input are answered while the cell runs.
            scope.spawn(move || {
                for () in requests {
                    self.link.flush(SHORT_FLUSH_TIMEOUT);
                    self.link.send_input(ask("input: ", false).as_deref());
                }
            });
            let done = self.parts(engine, cell, ask, &mut ran);
            self.running.store(false, Ordering::SeqCst);
            self.link.stop_input_requests();
            done
        });
        self.link.flush(FLUSH_TIMEOUT);
        let failure = self
            .output
            .end(self.link.sync())
            .map(|failure| self.with_position(failure, engine, cell, &ran));
        self.link.end();
        let mut earlier = locked(&self.earlier);
        earlier.insert(0, (number, cell.to_owned()));
        earlier.truncate(EARLIER_CELLS);
        failure.map_or(done, Err)
    }

    /// Whether waiting for input should end: the cell has ended, or was interrupted.
    pub fn is_cancelled(&self) -> bool {
        !self.running.load(Ordering::SeqCst) || locked(&self.stopped).is_some()
    }

    /// Runs the parts of a cell; sets `ran` to the last part as it was compiled.
    fn parts(
        &self,
        engine: &mut Engine,
        cell: &str,
        ask: AskUser<'_>,
        ran: &mut String,
    ) -> Result<(), Failure> {
        let given = parameters(cell, |name| {
            engine.variables().into_iter().find(|(known, _)| known == name).map(|(_, kind)| kind)
        });
        let given = given.transpose().map_err(|message| Failure::new("error", &message, ""))?;
        for part in parts(given.as_deref().unwrap_or(cell)) {
            match part {
                Part::Verbs(verbs) => self.verbs(engine, verbs)?,
                Part::Rust(rust) if rust.trim() == ":vars" => self.variables(engine)?,
                Part::Rust(rust) => {
                    self.rust(engine, cell, &rust, ask, ran)?;
                    // A panic or an error through `?` ends the cell.
                    if self.output.has_failed(self.link.sync()) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn rust(
        &self,
        engine: &mut Engine,
        cell: &str,
        rust: &str,
        ask: AskUser<'_>,
        ran: &mut String,
    ) -> Result<(), Failure> {
        let command = |names: &[&str]| {
            rust.lines()
                .filter(|l| is_command(l))
                .any(|l| names.iter().any(|n| l.trim().starts_with(n)))
        };
        self.evcxr_formats.fetch_or(command(&[":fmt", ":types"]), Ordering::SeqCst);
        let code = if self.evcxr_formats.load(Ordering::SeqCst) {
            CompiledCode::plain(rust)
        } else {
            CompiledCode::showing_value(rust)
        };
        code.text.clone_into(ran);
        let answer = |prompt: &str, password: bool| ask(prompt, password).unwrap_or_default();
        self.output.begin_wait("compiling the cell", None);
        let done = engine.execute(&code.text, &answer);
        self.output.end_wait();
        match done {
            Ok(outputs) => {
                // The output of evcxr commands; the output of cells has already been shown.
                if !outputs.is_empty() {
                    self.output.show(&json!(outputs.content_by_mime_type));
                }
                let connected = match (command(&[":clear"]), command(&[":restart"])) {
                    (true, _) => engine.begin_again(),
                    (_, true) => engine.attach(),
                    _ => Ok(()),
                };
                connected.map_err(|error| Failure::new("error", &error.to_string(), ""))
            }
            Err(_) if self.link.was_build_stopped() => Err(Failure::new(
                "interrupted",
                "the build for this cell was stopped",
                "variables are unchanged",
            )),
            Err(Error::CompilationErrors(errors)) => Err(compiler_failure(
                cell,
                &code,
                &errors,
                &engine.generated(),
                &locked(&self.earlier),
            )),
            Err(Error::SubprocessTerminated(how)) => Err(self.process_ended(engine, &how)),
            Err(error) => Err(build_failure(&error.to_string())),
        }
    }

    /// `failure` with its position in a cell, if there is one.
    fn with_position(&self, failure: Failure, engine: &Engine, cell: &str, ran: &str) -> Failure {
        match &failure.position {
            Some(position) => {
                let text = describe_position(
                    cell,
                    &CompiledCode::from_compiled(ran),
                    position,
                    &engine.generated(),
                    &locked(&self.earlier),
                );
                failure.at(text)
            }
            None => failure,
        }
    }

    /// Shows all variables.
    fn variables(&self, engine: &mut Engine) -> Result<(), Failure> {
        self.output.separate(self.link.sync());
        let table = self.table(engine)?;
        self.output.show_updatable(VARIABLES, &table);
        *locked(&self.table) = Some(table);
        Ok(())
    }

    /// Updates the table of variables, if it is on display.
    pub fn update_variables(&self, engine: &mut Engine) {
        let Some(shown) = locked(&self.table).take() else { return };
        match self.table(engine) {
            Ok(table) => {
                if table != shown {
                    self.output.update(VARIABLES, &table);
                }
                *locked(&self.table) = Some(table);
            }
            Err(failure) => self.output.note(&format!(
                "the table of variables is no longer updated: {}\n",
                failure.message
            )),
        }
    }

    /// The table of all variables, made by a cell that is not shown.
    fn table(&self, engine: &mut Engine) -> Result<Value, Failure> {
        let row = |(name, kind): &(String, String)| {
            let stars = "*".repeat(references(kind));
            format!("({name:?}, {kind:?}, dam_prelude::summary!({stars}{name}))")
        };
        let rows: Vec<String> = engine.variables().iter().map(row).collect();
        let code = format!("dam_prelude::notebook::variables(&[{}]);", rows.join(", "));
        match engine.execute(&code, &|_, _| String::new()) {
            Ok(_) => Ok(self.output.take_value(self.link.sync())),
            Err(Error::SubprocessTerminated(how)) => Err(self.process_ended(engine, &how)),
            Err(error) => Err(Failure::new("error", &error.to_string(), "")),
        }
    }

    fn verbs(&self, engine: &mut Engine, line: &str) -> Result<(), Failure> {
        match self.link.verbs(line, |shown| self.output.show(shown)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err((message, hint))) => Err(Failure::new(
                "error",
                &message,
                &hint.map(|h| format!("hint: {h}")).unwrap_or_default(),
            )),
            Err(how) => Err(self.process_ended(engine, &how.to_string())),
        }
    }

    /// Saves the latest merge to `file`, without output.
    ///
    /// # Errors
    /// There is no merge, or the file is not writable.
    pub fn save(&self, file: &std::path::Path) -> Result<(), Failure> {
        let failed = |message: &str| Failure::new("error", message, "");
        self.link.begin();
        let line = format!("save --force {}", quoted(&file.display().to_string()));
        let done = self.link.verbs(&line, |_| {});
        self.link.end();
        match done {
            Ok(done) => done.map_err(|(message, _)| failed(&message)),
            Err(error) => Err(failed(&error.to_string())),
        }
    }

    /// Replaces a cells' process that has ended; the new one has no variables.
    fn process_ended(&self, engine: &mut Engine, how: &str) -> Failure {
        // evcxr notices a dead process only on use, and then starts another.
        let again = engine.attach().or_else(|_| engine.attach());
        let interrupted = locked(&self.stopped).is_some();
        let message = if interrupted {
            "the second interrupt killed the cells' process"
        } else {
            "the cells' process has ended"
        };
        let rest = match again {
            Ok(()) => "all variables are lost; rerun the cells that define them".to_owned(),
            Err(error) => format!("a new one did not start ({error:#}); restart the kernel"),
        };
        let how = if interrupted { "" } else { how.trim() };
        Failure::new("error", message, format!("{rest}\n{how}").trim())
    }

    /// Passes on a message of the front end to a control.
    pub fn send_comm(&self, message: &Value) {
        self.link.send_comm(message);
    }

    /// Requests that the running cell stop; a second request soon after kills the cells' process.
    /// Without a running cell, what controls are doing stops.
    pub fn interrupt(&self) {
        if !self.running.load(Ordering::SeqCst) {
            return self.link.stop();
        }
        let mut stopped = locked(&self.stopped);
        if stopped.is_some_and(|at| at.elapsed() < KILL_WINDOW) {
            self.link.kill();
            return;
        }
        *stopped = Some(Instant::now());
        self.link.stop();
        if self.link.stop_build() {
            self.output.note("stopping the build\n");
            return;
        }
        self.output.note(
            "stopping; a second interrupt within 5 s kills the process and loses its variables\n",
        );
    }

    /// Ends the cells' process for good.
    pub fn shut_down(&self) {
        self.link.kill();
        let process = locked(&self.process).take();
        if let Some(process) = process
            && let Ok(mut process) = process.try_lock()
        {
            let _ = process.kill();
        }
    }
}

/// Timeouts for requests to the cells' process, and for those a user is waiting for.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
const SHORT_FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of references before a type; the value behind them is shown.
fn references(kind: &str) -> usize {
    let Some(rest) = kind.strip_prefix('&') else { return 0 };
    let rest = if rest.starts_with('\'') {
        rest.split_once(' ').map_or("", |(_, rest)| rest)
    } else {
        rest
    };
    1 + references(rest.strip_prefix("mut ").unwrap_or(rest))
}

/// The failure of a build, with cargo's messages but without evcxr's around them.
fn build_failure(text: &str) -> Failure {
    let stderr = text
        .split_once("STDERR:\n")
        .map_or(text, |(_, stderr)| stderr.split("\nSTDOUT:").next().unwrap_or(stderr));
    let stderr = stderr.trim();
    // Errors in crates come before cargo's own message.
    let (message, rest) = stderr.split_once('\n').unwrap_or((stderr, ""));
    Failure::new("error", message.strip_prefix("error: ").unwrap_or(message), rest.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_references_of_a_type_are_counted() {
        let kinds =
            ["i32", "&str", "&'static str", "&&mut [u8]", "&'a mut &'static Tensor", "Vec<&str>"];
        assert_eq!(kinds.map(references), [0, 1, 1, 2, 2, 0]);
    }

    #[test]
    fn build_failures_have_cargos_messages_without_evcxrs() {
        let text = "Compilation failed, but no parsable errors were found. STDERR:\nerror[E0425]: x\n --> src/lib.rs\n\nSTDOUT:{}\n";
        let failure = build_failure(text);
        assert_eq!((failure.message.as_str(), failure.lines.len()), ("error[E0425]: x", 2));
        assert_eq!(build_failure("no such crate").message, "no such crate");
    }
}
