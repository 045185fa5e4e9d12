//! The process between evcxr and the process that runs the cells.
//!
//! evcxr keeps what a cell shows until its end, one thing a type, and says nothing of a `?` that failed. So what the
//! cells write passes here: evcxr gets its own marks, and the kernel gets everything else as it is written, in order,
//! as lines of JSON on its socket:
//!
//! ```text
//! {"out": TEXT} {"err": TEXT}        standard output and standard error
//! {"block": TYPE, "content": TEXT}   something to show
//! {"failed": TEXT}                   a `?` ended the cell, TEXT is the error
//! {"panicked": TEXT}                 a panic did
//! {"runs": true}                     the cell is compiled, and runs
//! {"asks": true}                     the cell waits for a line of standard input
//! {"synced": N}                      all that was written before the kernel's line N has been said
//! ```
//!
//! The kernel answers with lines of JSON too: `N` asks to be synced, `{"line": TEXT}` gives the cell a line that it
//! waits for, `{"line": null}` tells it that there is none.
//!
//! It outlives the cells' process, so that its last words are heard; it ends with it, and ends it when the kernel is gone.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::stdin;

/// Whether a panic in a cell comes with a backtrace: what `RUST_BACKTRACE` says to the kernel.
pub const BACKTRACE: &str = "DAM_BACKTRACE";

/// Set in the environment of the process that runs the cells.
const INNER: &str = "DAM_CELLS";

/// evcxr's mark of a `?` that failed.
const FAILED: &str = "EVCXR_ERROR_OCCURRED";
/// evcxr's mark of a panic.
const PANICKED: &str = "EVCXR_PANIC_NOTIFICATION";
/// evcxr's mark of a cell that is over.
const COMPLETE: &str = "EVCXR_EXECUTION_COMPLETE";
/// evcxr's mark of a cell that asks evcxr for a line, which evcxr answers itself.
const ASKS: &str = "EVCXR_INPUT_REQUEST";
/// What evcxr tells the cells' process to run a cell.
const RUN: &str = "LOAD_AND_RUN ";
const BEGIN: &str = "EVCXR_BEGIN_CONTENT ";
const END: &str = "EVCXR_END_CONTENT";

/// How long what is written without a line end, or to standard error, waits for what belongs to it.
const WAIT_MS: i32 = 40;

/// How often it is looked whether a cell that runs waits for a line.
const LOOK_MS: i32 = 150;

/// Whether this process is to be the one between.
pub fn is_between() -> bool {
    std::env::var_os("EVCXR_IS_RUNTIME").is_some()
        && std::env::var_os(dam_prelude::notebook::SOCKET).is_some()
        && std::env::var_os(INNER).is_none()
}

/// Runs the cells' process and passes on what it writes, until it ends.
pub fn between() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the cells' process cannot be run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let socket = std::env::var_os(dam_prelude::notebook::SOCKET).context("there is no socket")?;
    let kernel = UnixStream::connect(socket)?;
    let mut command = Command::new(super::engine::program()?);
    let (input, theirs) = stdin::pair()?;
    command.args(std::env::args_os().skip(1)).env(INNER, "1");
    command.stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::piped());
    // evcxr asks for backtraces; a panic says more without, and with one where a person asks for it.
    command.env("RUST_BACKTRACE", std::env::var_os(BACKTRACE).unwrap_or_else(|| "0".into()));
    end_with_parent(&mut command);
    let mut cells = command.spawn()?;
    // What it was told to begin with is its own now.
    drop(command);
    let (Some(out), Some(err)) = (cells.stdout.take(), cells.stderr.take()) else { bail!("they have no output") };
    let mut between = Between {
        kernel,
        out,
        err,
        evcxr: std::io::stdout(),
        line: Vec::new(),
        text: String::new(),
        errors: Vec::new(),
        block: None,
        input: Some(input),
        cells: cells.id(),
        commands: Vec::new(),
        state: Cell::Idle,
    };
    between.say(&json!({"hello": "cells", "pid": cells.id()}))?;
    let passed = between.pass();
    if passed.is_err() {
        // The kernel is gone.
        let _ = cells.kill();
    }
    let status = cells.wait()?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

/// On Linux the cells' process is killed when this one is; elsewhere the kernel kills it by its number.
fn end_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: between fork and exec only prctl is called, which is safe there.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// What the cells' process does.
#[derive(Clone, Copy, PartialEq)]
enum Cell {
    /// It waits for evcxr.
    Idle,
    /// It runs a cell.
    Runs,
    /// It waits for a line, which evcxr or the kernel has been asked for.
    Asks,
}

struct Between {
    kernel: UnixStream,
    out: ChildStdout,
    err: ChildStderr,
    evcxr: std::io::Stdout,
    /// A line of standard output that has not ended.
    line: Vec<u8>,
    /// Lines of standard output that have not been said.
    text: String,
    /// Of standard error, what has not been said.
    errors: Vec<u8>,
    /// The type and content of a block that has not ended.
    block: Option<(String, String)>,
    /// The standard input of the cells' process; none when evcxr has closed it.
    input: Option<stdin::Input>,
    /// The number of the cells' process.
    cells: u32,
    /// What evcxr has said without a line end.
    commands: Vec<u8>,
    state: Cell,
}

impl Between {
    fn pass(&mut self) -> Result<()> {
        for fd in [self.out.as_raw_fd(), self.err.as_raw_fd()] {
            // SAFETY: these are open descriptors of this process.
            unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
        }
        let mut asked = self.kernel.try_clone()?;
        let mut questions = Vec::new();
        let mut looked = Instant::now();
        loop {
            // What has been said needs no waking.
            let said = self.errors.is_empty() && self.line.is_empty();
            let patience = match (said, self.state) {
                (false, _) => WAIT_MS,
                (true, Cell::Runs) => LOOK_MS,
                (true, _) => -1,
            };
            // Without evcxr there is nothing to hear from it: a descriptor below 0 is not looked at.
            let evcxr = if self.input.is_some() { std::io::stdin().as_raw_fd() } else { -1 };
            let ready = wait([self.out.as_raw_fd(), self.err.as_raw_fd(), asked.as_raw_fd(), evcxr], patience)?;
            if ready == [false; 4] {
                self.flush()?;
            }
            let is_time = self.state == Cell::Runs && looked.elapsed() >= Duration::from_millis(LOOK_MS as u64);
            if is_time {
                looked = Instant::now();
            }
            let waits = is_time && stdin::waits(self.cells);
            let ended = self.hear()?;
            // A cell that is over waits too, for evcxr; it has said so before.
            if waits && self.state == Cell::Runs {
                self.state = Cell::Asks;
                self.flush()?;
                self.say(&json!({"asks": true}))?;
            }
            if ready[3] {
                self.commands()?;
            }
            if ready[2] {
                let mut bytes = [0; 1024];
                match asked.read(&mut bytes)? {
                    0 => bail!("the kernel is gone"),
                    n => questions.extend_from_slice(&bytes[..n]),
                }
                while let Some(end) = questions.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = questions.drain(..=end).collect();
                    let message: Value = serde_json::from_slice(&line).unwrap_or_default();
                    match message.get("line") {
                        Some(line) => self.answered(line.as_str())?,
                        None => {
                            self.flush()?;
                            self.say(&json!({"synced": message}))?;
                        }
                    }
                }
            }
            if ended {
                return self.flush();
            }
        }
    }

    /// Takes what was written. Tells whether nothing more will come.
    ///
    /// Standard output is read first and standard error said first: what was written to it before a mark is then there
    /// with the mark.
    fn hear(&mut self) -> Result<bool> {
        let mut written = Vec::new();
        let ended = drain(&mut self.out, &mut written)?;
        drain(&mut self.err, &mut self.errors)?;
        self.output(&written)?;
        Ok(ended)
    }

    /// Passes on what evcxr tells the cells' process.
    fn commands(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        // Unbuffered: what is left here is not looked at before more comes.
        let read = rustix::io::read(std::io::stdin(), &mut bytes)?;
        if read == 0 {
            self.input = None;
            return Ok(());
        }
        self.commands.extend_from_slice(&bytes[..read]);
        while let Some(end) = self.commands.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.commands.drain(..=end).collect();
            if line.starts_with(RUN.as_bytes()) {
                self.say(&json!({"runs": true}))?;
            }
            self.state = Cell::Runs;
            self.give(&line);
        }
        Ok(())
    }

    /// The kernel has an answer for the cell that waits for a line: none is the end of the input.
    fn answered(&mut self, line: Option<&str>) -> Result<()> {
        // The cell may have ended meanwhile, and its process must not take the answer for a command.
        let waits = stdin::waits(self.cells);
        self.hear()?;
        if self.state != Cell::Asks || !waits {
            return Ok(());
        }
        self.state = Cell::Runs;
        match line {
            Some(line) => self.give(format!("{line}\n").as_bytes()),
            None => self.input.as_mut().map_or(Ok(()), stdin::Input::end)?,
        }
        Ok(())
    }

    /// Gives the cells' process a line. That it is gone is noticed where its output ends.
    fn give(&mut self, line: &[u8]) {
        let _ = self.input.as_mut().map(|input| input.give(line));
    }

    /// Takes what was written to standard output, line by line.
    fn output(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.take(&String::from_utf8_lossy(&line))?;
            }
        }
        if self.line.len() > MOST {
            self.flush()?;
        }
        self.say_text()
    }

    fn take(&mut self, line: &str) -> Result<()> {
        // What was printed without a line end stands before a mark.
        if self.block.is_none()
            && let Some(at) = line.find("EVCXR_").filter(|at| *at > 0)
        {
            self.say_errors()?;
            self.text.push_str(&line[..at]);
            return self.take(&line[at..]);
        }
        let bare = line.trim_end_matches(['\r', '\n']);
        if bare == PANICKED || bare == FAILED {
            self.block = None;
            let what = if bare == FAILED { "failed" } else { "panicked" };
            let text = self.error_text();
            self.say(&json!({what: text}))?;
            return self.mark(line);
        }
        if let Some((kind, content)) = &mut self.block {
            if bare == END {
                let said = json!({"block": kind, "content": content.trim_end_matches('\n')});
                self.block = None;
                return self.say(&said);
            }
            content.push_str(line);
            return Ok(());
        }
        self.say_errors()?;
        match bare.strip_prefix(BEGIN) {
            Some(kind) => self.block = Some((kind.to_owned(), String::new())),
            None if bare.starts_with("EVCXR_") => self.mark(line)?,
            // Lines are said together.
            None => self.text.push_str(line),
        }
        Ok(())
    }

    /// Says the lines that were written.
    fn say_text(&mut self) -> Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        self.say(&json!({"out": text}))
    }

    /// Says what waits for more.
    fn flush(&mut self) -> Result<()> {
        self.say_errors()?;
        let is_mark = "EVCXR_".as_bytes().starts_with(&self.line) || self.line.starts_with(b"EVCXR_");
        if self.block.is_none() && !is_mark && std::str::from_utf8(&self.line).is_ok() {
            let line = std::mem::take(&mut self.line);
            self.say(&json!({"out": String::from_utf8_lossy(&line)}))?;
        }
        Ok(())
    }

    fn error_text(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.errors)).into_owned()
    }

    fn say_errors(&mut self) -> Result<()> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let text = self.error_text();
        self.say(&json!({"err": text}))
    }

    fn say(&mut self, message: &Value) -> Result<()> {
        // What was written before.
        self.say_text()?;
        Ok(writeln!(self.kernel, "{message}")?)
    }

    fn mark(&mut self, line: &str) -> Result<()> {
        self.say_text()?;
        match line.trim_end() {
            COMPLETE => self.state = Cell::Idle,
            asks if asks.starts_with(ASKS) => self.state = Cell::Asks,
            _ => {}
        }
        self.evcxr.write_all(line.as_bytes())?;
        Ok(self.evcxr.flush()?)
    }
}

/// Which of `fds` can be read or have ended; none after `patience` milliseconds, of which -1 is for ever.
fn wait(fds: [RawFd; 4], patience: i32) -> Result<[bool; 4]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: the array lives through the call and has four entries.
    let n = unsafe { libc::poll(polled.as_mut_ptr(), 4, patience) };
    let error = std::io::Error::last_os_error();
    if n < 0 && error.kind() != std::io::ErrorKind::Interrupted {
        return Err(error.into());
    }
    Ok(polled.map(|p| n > 0 && p.revents != 0))
}

/// The most bytes that are read at once, and of a line that are kept until it ends: a cell may write for ever.
const MOST: usize = 1 << 20;

/// Reads what is there. Tells whether nothing more will come.
fn drain(from: &mut impl Read, into: &mut Vec<u8>) -> Result<bool> {
    let mut bytes = [0; 65536];
    let most = into.len() + MOST;
    while into.len() < most {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(true),
            Ok(n) => into.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
