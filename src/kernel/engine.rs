//! evcxr, and what it is told before the first cell.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail};
use dam_prelude::notebook::SOCKET;
use evcxr::{CommandContext, Error, EvalCallbacks, EvalContext, EvalOutputs};

use super::between::BACKTRACE;
use super::cargo::{HOME, found};
use super::link::Link;
use super::prepare::{FEATURES, PRELUDE, Workplace, copy_lock, earlier, prepared};

/// What every notebook begins with. (Without a `?` evcxr would compile the first cell that has one twice.)
const BEGIN: &str = "use dam_prelude::*; Ok::<(), dam_prelude::Error>(())?;";

/// What every cells' process begins with.
const ATTACH: &str = "dam_prelude::notebook::attach();";

/// What first cells are like: rust-analyzer, having seen it once, is quick.
const FIRST: &str = "let dam = load([\"\"])?.wrap(Columns::default())?; dam.train(1)?.";

/// Words that could stand somewhere, with their kinds.
pub type Words = Vec<(String, &'static str)>;

/// evcxr, with the prelude in scope.
pub struct Engine {
    context: CommandContext,
    link: Arc<Link>,
    // Removed after the process that runs in it has ended.
    _workplace: Workplace,
}

impl Engine {
    /// Starts the cells' process, which connects to `socket`, where `link` listens. Builds the prelude if it is not
    /// built yet, which `told` is told of.
    ///
    /// # Errors
    /// No compiler or source, a prelude that does not build, a disk without room.
    pub fn start(link: Arc<Link>, socket: &Path, told: impl FnOnce()) -> Result<Self> {
        let prepared = prepare(told)?;
        let workplace = Workplace::new()?;
        workplace.fill(&prepared)?;
        let context = context(workplace.path(), Some(socket))?;
        let engine = Self { context, link, _workplace: workplace };
        engine.listens()?;
        Ok(engine)
    }

    /// Makes the first cell quicker, where there is time before it.
    pub fn warm_up(&mut self) {
        let _ = self.completions(FIRST, FIRST.len());
    }

    /// Makes the cells' process listen, if it does not yet.
    ///
    /// # Errors
    /// What evcxr says.
    pub fn attach(&mut self) -> Result<()> {
        self.context.execute(ATTACH).map_err(said)?;
        self.listens()
    }

    fn listens(&self) -> Result<()> {
        // It connects on a thread of ours.
        for _ in 0..200 {
            if self.link.is_attached() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Err(anyhow!("the cells' process does not answer: restart the kernel"))
    }

    /// Runs a cell; `input` answers what it asks a person: a prompt, and whether the answer is secret.
    ///
    /// # Errors
    /// What evcxr says.
    pub fn execute(&mut self, code: &str, input: &dyn Fn(&str, bool) -> String) -> Result<EvalOutputs, Error> {
        let mut callbacks = EvalCallbacks { input_reader: &|asked| input(&asked.prompt, asked.is_password) };
        self.context.execute_with_callbacks(code, &mut callbacks)
    }

    /// The variables with their types, by name.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = self.context.variables_and_types().map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        all.sort();
        all
    }

    /// What evcxr made of the cell that was compiled last.
    pub fn generated(&self) -> String {
        self.context.last_source().unwrap_or_default()
    }

    /// What could stand at `position` of `code`, in bytes: the range it would replace, and the words with their kinds.
    pub fn completions(&mut self, code: &str, position: usize) -> Option<(usize, usize, Words)> {
        let found = self.context.completions(code, position).ok()?;
        let words = found.completions.into_iter().map(|c| (c.code, c.kind)).collect();
        Some((found.start_offset, found.end_offset, words))
    }

    /// The documentation of what ends at `position` of `code`, in bytes: as text and as HTML.
    pub fn documentation(&mut self, code: &str, position: usize) -> Option<(String, String)> {
        let found = self.context.hover_at(code, position).ok()?;
        (found.0 != NOTHING).then_some(found)
    }

    /// The process that evcxr started, to be ended.
    pub fn process(&self) -> Arc<Mutex<Child>> {
        self.context.process_handle()
    }
}

/// What evcxr says of what has no documentation.
const NOTHING: &str = "No documentation found";

/// Where the prelude is, built for cells; builds it if that is not done, telling `told` before.
///
/// # Errors
/// No compiler or source, a prelude that does not build, a disk without room.
pub fn prepare(told: impl FnOnce()) -> Result<PathBuf> {
    let prepared = prepared()?;
    if prepared.is_dir() {
        return Ok(prepared);
    }
    told();
    let workplace = Workplace::new()?;
    // Of an earlier prelude, most of what was built is used again.
    if let Some(earlier) = earlier()? {
        workplace.fill(&earlier)?;
    }
    drop(context(workplace.path(), None)?);
    workplace.keep(&prepared)?;
    Ok(prepared)
}

/// evcxr with the prelude, building in `directory`.
fn context(directory: &Path, socket: Option<&Path>) -> Result<CommandContext> {
    // SAFETY: evcxr reads it when it starts, on this thread; nothing else reads or writes the environment.
    unsafe { std::env::set_var("EVCXR_TMPDIR", directory) };
    let mut command = Command::new(program()?);
    if let Some(wanted) = std::env::var_os("RUST_BACKTRACE") {
        command.env(BACKTRACE, wanted);
    }
    // Ctrl-C in a terminal is for this process, which passes it on.
    command.process_group(0);
    if let Some(socket) = socket {
        command.env(SOCKET, socket);
    }
    if let Some(home) = std::env::var_os(HOME) {
        command.env("CARGO_HOME", home);
    }
    command.env(LIBRARY_PATH, library_path(directory)?);
    let started = found(|| EvalContext::with_subprocess_command(command));
    let (context, outputs) = started.map_err(said).context("evcxr does not start")?;
    // What the process says before it is connected.
    for lines in [outputs.stdout, outputs.stderr] {
        std::thread::spawn(move || lines.iter().for_each(|line| eprintln!("{line}")));
    }
    let mut context = CommandContext::with_eval_context(context);
    // evcxr has built a cell without dependencies, after which cargo forgets what versions they had.
    copy_lock(directory)?;
    let features: Vec<String> = FEATURES.iter().map(|feature| format!("{feature:?}")).collect();
    let home = std::env::var(HOME).map(|home| format!(":build_env CARGO_HOME={home}\n")).unwrap_or_default();
    let begin = format!(
        "{home}:dep dam-prelude = {{ path = {PRELUDE:?}, features = [{}] }}\n:opt 0\n:efmt {{:?}}\n{BEGIN} {ATTACH}",
        features.join(", ")
    );
    context.execute(&begin).map_err(said).context("the prelude does not build for cells")?;
    Ok(context)
}

/// This program, also when its file has been replaced since it was started.
///
/// # Errors
/// A system that does not say.
pub fn program() -> Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { Ok(std::env::current_exe()?) }
}

/// Where the loader looks for dynamic libraries first.
const LIBRARY_PATH: &str = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };

/// Where Rust's standard library is, and where cells and their dependencies are built. (evcxr moves cells after they
/// are linked, so what they say themselves of where their libraries are holds only for some directories.)
fn library_path(directory: &Path) -> Result<OsString> {
    let asked = Command::new("rustc").args(["--print", "target-libdir", "--print", "host-tuple"]).output()?;
    let answer = String::from_utf8(asked.stdout)?;
    let [libraries, target] = answer.lines().collect::<Vec<_>>()[..] else {
        bail!("rustc does not say where its libraries are: update Rust (rustup update)")
    };
    let debug = directory.join("target").join(target).join("debug");
    let own = [debug.join("deps"), debug, libraries.into()];
    // The loader never looks again into a directory that was not there when the process began.
    std::fs::create_dir_all(&own[0]).with_context(|| format!("cannot write {}", own[0].display()))?;
    let before = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
    Ok(std::env::join_paths(own.into_iter().chain(std::env::split_paths(&before)))?)
}

/// An error of evcxr with what the compiler said.
fn said(error: Error) -> anyhow::Error {
    match &error {
        Error::CompilationErrors(errors) => {
            anyhow!("{}", errors.iter().map(|e| e.rendered()).collect::<Vec<_>>().join("\n"))
        }
        _ => anyhow!("{error}"),
    }
}
