//! evcxr, and its setup before the first cell.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail};
use dam_prelude::notebook::SOCKET;
use evcxr::{CommandContext, Error, EvalCallbacks, EvalContext, EvalOutputs};

use crate::kernel::cargo::cache::{BuildDirectory, latest_build};
use crate::kernel::cargo::library;
use crate::kernel::cargo::package::LOCK;
use crate::kernel::cargo::prelude::{build_path, dependency};
use crate::kernel::cargo::wrapper::with_wrapper_on_path;
use crate::kernel::environment::{self, BACKTRACE, BUILD_DIRECTORY, HOME, program};
use crate::kernel::process::link::Link;

/// The first code of every notebook. (Without a `?` in it, evcxr would compile the first cell that
/// has one twice.)
const BEGIN: &str = "use dam_prelude::*; Ok::<(), dam_prelude::Error>(())?;";

/// The first code of every new process for cells.
const ATTACH: &str = "dam_prelude::notebook::attach();";

/// Typical first cells: rust-analyzer answers quickly once it has seen such code.
const WARM_UP: &str = "let dam = load([\"\"])?.wrap(Columns::default())?; dam.train(1)?.";

/// Completions with their kinds.
pub type Candidates = Vec<(String, &'static str)>;

/// evcxr, with the prelude in scope.
pub struct Engine {
    context: CommandContext,
    link: Arc<Link>,
    // Dropped last: deletes the directory after the process that runs in it has ended.
    _build_directory: BuildDirectory,
}

impl Engine {
    /// Starts the cells' process, which connects to `socket`, where `link` listens. Calls
    /// `before_build` and then builds the prelude if it is not built yet.
    ///
    /// # Errors
    /// There is no compiler or source, the prelude does not build, or the disk is full.
    pub fn start(link: Arc<Link>, socket: &Path, before_build: impl FnOnce()) -> Result<Self> {
        let prepared = prepare(before_build)?;
        let build_directory = BuildDirectory::new()?;
        build_directory.fill(&prepared)?;
        library::choose(&prepared)?;
        let context = context(build_directory.path(), Some(socket))?;
        let engine = Self { context, link, _build_directory: build_directory };
        engine.wait_until_attached()?;
        Ok(engine)
    }

    /// Warms up rust-analyzer, which makes the first cell faster.
    pub fn warm_up(&mut self) {
        let _ = self.completions(WARM_UP, WARM_UP.len());
    }

    /// Connects the cells' process to the kernel, if it is not connected yet.
    ///
    /// # Errors
    /// The error of evcxr.
    pub fn attach(&mut self) -> Result<()> {
        self.context.execute(ATTACH).map_err(compiler_error)?;
        self.wait_until_attached()
    }

    /// The same after evcxr has forgotten everything: the prelude is in scope again.
    ///
    /// # Errors
    /// The error of evcxr.
    pub fn begin_again(&mut self) -> Result<()> {
        self.context.execute(&begin()).map_err(compiler_error)?;
        self.wait_until_attached()
    }

    fn wait_until_attached(&self) -> Result<()> {
        // The connection is accepted on another thread of this process.
        for _ in 0..200 {
            if self.link.is_attached() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Err(anyhow!("the cells' process does not respond: restart the kernel"))
    }

    /// Runs a cell. `input` answers requests for input; its arguments are the prompt and whether
    /// the answer is a password.
    ///
    /// # Errors
    /// The error of evcxr.
    pub fn execute(
        &mut self,
        code: &str,
        input: &dyn Fn(&str, bool) -> String,
    ) -> Result<EvalOutputs, Error> {
        let mut callbacks =
            EvalCallbacks { input_reader: &|request| input(&request.prompt, request.is_password) };
        self.context.execute_with_callbacks(code, &mut callbacks)
    }

    /// The variables and their types, sorted by name.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = self
            .context
            .variables_and_types()
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect();
        all.sort();
        all
    }

    /// The source that evcxr generated from the last cell compiled.
    pub fn generated(&self) -> String {
        self.context.last_source().unwrap_or_default()
    }

    /// The completions at byte `position` of `code`: the range of bytes they replace, and the words
    /// with their kinds.
    pub fn completions(
        &mut self,
        code: &str,
        position: usize,
    ) -> Option<(usize, usize, Candidates)> {
        let found = self.context.completions(code, position).ok()?;
        let words = found.completions.into_iter().map(|c| (c.code, c.kind)).collect();
        Some((found.start_offset, found.end_offset, words))
    }

    /// The documentation of the item that ends at byte `position` of `code`, as text and as HTML.
    pub fn documentation(&mut self, code: &str, position: usize) -> Option<(String, String)> {
        let found = self.context.hover_at(code, position).ok()?;
        (found.0 != NOTHING).then_some(found)
    }

    /// The process that evcxr started.
    pub fn process(&self) -> Arc<Mutex<Child>> {
        self.context.process_handle()
    }
}

/// evcxr's answer if there is no documentation.
const NOTHING: &str = "No documentation found";

/// The directory with the prelude built for cells. Calls `before_build` and then builds it if it is
/// not there yet.
///
/// # Errors
/// There is no compiler or source, the prelude does not build, or the disk is full.
pub fn prepare(before_build: impl FnOnce()) -> Result<PathBuf> {
    let prepared = build_path()?;
    if prepared.is_dir() {
        return Ok(prepared);
    }
    before_build();
    let build_directory = BuildDirectory::new()?;
    // Most of an earlier build can be reused.
    if let Some(earlier) = latest_build()? {
        build_directory.reuse(&earlier)?;
    }
    library::write(build_directory.path())?;
    library::choose(build_directory.path())?;
    drop(context(build_directory.path(), None)?);
    build_directory.publish(&prepared)?;
    Ok(prepared)
}

/// evcxr with the prelude in scope, building in `directory`.
fn context(directory: &Path, socket: Option<&Path>) -> Result<CommandContext> {
    environment::set(BUILD_DIRECTORY, directory);
    let mut command = Command::new(program()?);
    if let Some(wanted) = std::env::var_os("RUST_BACKTRACE") {
        command.env(BACKTRACE, wanted);
    }
    // A process group of its own: Ctrl-C in a terminal reaches only this process, which forwards
    // it.
    command.process_group(0);
    if let Some(socket) = socket {
        command.env(SOCKET, socket);
    }
    if let Some(home) = std::env::var_os(HOME) {
        command.env("CARGO_HOME", home);
    }
    command.env(LIBRARY_PATH, library_path(directory)?);
    let started = with_wrapper_on_path(|| EvalContext::with_subprocess_command(command));
    let (context, outputs) = started.map_err(compiler_error).context("evcxr does not start")?;
    // Output from before the process is connected.
    for lines in [outputs.stdout, outputs.stderr] {
        std::thread::spawn(move || lines.iter().for_each(|line| eprintln!("{line}")));
    }
    let mut context = CommandContext::with_eval_context(context);
    // At startup evcxr builds a cell without dependencies, after which cargo has dropped the
    // versions from the lock file.
    std::fs::write(directory.join("Cargo.lock"), LOCK)
        .with_context(|| format!("cannot write {}", directory.display()))?;
    let home = std::env::var(HOME)
        .map(|home| format!(":build_env CARGO_HOME={home}\n"))
        .unwrap_or_default();
    context
        .execute(&format!("{home}:opt 0\n:efmt {{:?}}\n{}", begin()))
        .map_err(compiler_error)
        .context("the prelude does not build for cells")?;
    Ok(context)
}

/// The code that takes the prelude into scope and connects the cells' process.
fn begin() -> String {
    format!(":dep {}\n{BEGIN} {ATTACH}", dependency())
}

/// The environment variable with the directories that the dynamic loader searches first.
const LIBRARY_PATH: &str =
    if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };

/// The directories of Rust's standard library and of built cells and their dependencies. (evcxr
/// moves cells after linking, so the paths stored in them are valid only for some directories.)
fn library_path(directory: &Path) -> Result<OsString> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--print", "host-tuple"])
        .output()?;
    let answer = String::from_utf8(output.stdout)?;
    let [libraries, target] = answer.lines().collect::<Vec<_>>()[..] else {
        bail!("rustc does not report its library directory: update Rust (rustup update)")
    };
    let debug = directory.join("target").join(target).join("debug");
    let own = [debug.join("deps"), debug, libraries.into()];
    // The loader ignores directories that do not exist when the process starts.
    std::fs::create_dir_all(&own[0])
        .with_context(|| format!("cannot write {}", own[0].display()))?;
    let before = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
    Ok(std::env::join_paths(own.into_iter().chain(std::env::split_paths(&before)))?)
}

/// An error of evcxr with the messages of the compiler.
fn compiler_error(error: Error) -> anyhow::Error {
    match &error {
        Error::CompilationErrors(errors) => {
            anyhow!("{}", errors.iter().map(|e| e.rendered()).collect::<Vec<_>>().join("\n"))
        }
        _ => anyhow!("{error}"),
    }
}
