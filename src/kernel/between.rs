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
//! {"synced": N}                      all that was written before the kernel's line N has been said
//! ```
//!
//! It outlives the cells' process, so that its last words are heard; it ends with it, and ends it when the kernel is gone.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Set in the environment of the process that runs the cells.
const INNER: &str = "DAM_CELLS";

/// evcxr's mark of a `?` that failed.
const FAILED: &str = "EVCXR_ERROR_OCCURRED";
/// evcxr's mark of a panic.
const PANICKED: &str = "EVCXR_PANIC_NOTIFICATION";
const BEGIN: &str = "EVCXR_BEGIN_CONTENT ";
const END: &str = "EVCXR_END_CONTENT";

/// How long what is written without a line end, or to standard error, waits for what belongs to it.
const WAIT_MS: i32 = 40;

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
    command.args(std::env::args_os().skip(1)).env(INNER, "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    end_with_parent(&mut command);
    let mut cells = command.spawn()?;
    let mut between = Between { kernel, evcxr: std::io::stdout(), line: Vec::new(), errors: Vec::new(), block: None };
    between.say(&json!({"hello": "cells", "pid": cells.id()}))?;
    let passed = between.pass(&mut cells);
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

struct Between {
    kernel: UnixStream,
    evcxr: std::io::Stdout,
    /// A line of standard output that has not ended.
    line: Vec<u8>,
    /// Of standard error, what has not been said.
    errors: Vec<u8>,
    /// The type and content of a block that has not ended.
    block: Option<(String, String)>,
}

impl Between {
    fn pass(&mut self, cells: &mut Child) -> Result<()> {
        let (Some(mut out), Some(mut err)) = (cells.stdout.take(), cells.stderr.take()) else { return Ok(()) };
        for fd in [out.as_raw_fd(), err.as_raw_fd()] {
            // SAFETY: these are open descriptors of this process.
            unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
        }
        let mut asked = self.kernel.try_clone()?;
        let mut questions = Vec::new();
        loop {
            // What has been said needs no waking.
            let patience = if self.errors.is_empty() && self.line.is_empty() { -1 } else { WAIT_MS };
            let ready = wait([out.as_raw_fd(), err.as_raw_fd(), asked.as_raw_fd()], patience)?;
            if ready == [false; 3] {
                self.flush()?;
                continue;
            }
            // Standard output is read first and standard error said first: what was written to it before a mark is
            // then there with the mark.
            let mut written = Vec::new();
            let ended = drain(&mut out, &mut written)?;
            drain(&mut err, &mut self.errors)?;
            self.output(&written)?;
            if ready[2] {
                let mut bytes = [0; 1024];
                match asked.read(&mut bytes)? {
                    0 => anyhow::bail!("the kernel is gone"),
                    n => questions.extend_from_slice(&bytes[..n]),
                }
                while let Some(end) = questions.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = questions.drain(..=end).collect();
                    self.flush()?;
                    let number: Value = serde_json::from_slice(&line).unwrap_or_default();
                    self.say(&json!({"synced": number}))?;
                }
            }
            if ended {
                return self.flush();
            }
        }
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
        Ok(())
    }

    fn take(&mut self, line: &str) -> Result<()> {
        // What was printed without a line end stands before a mark.
        if self.block.is_none()
            && let Some(at) = line.find("EVCXR_").filter(|at| *at > 0)
        {
            self.say_errors()?;
            self.say(&json!({"out": line[..at]}))?;
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
            None => self.say(&json!({"out": line}))?,
        }
        Ok(())
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
        Ok(writeln!(self.kernel, "{message}")?)
    }

    fn mark(&mut self, line: &str) -> Result<()> {
        self.evcxr.write_all(line.as_bytes())?;
        Ok(self.evcxr.flush()?)
    }
}

/// Which of `fds` can be read or have ended; none after `patience` milliseconds, of which -1 is for ever.
fn wait(fds: [RawFd; 3], patience: i32) -> Result<[bool; 3]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: the array lives through the call and has three entries.
    let n = unsafe { libc::poll(polled.as_mut_ptr(), 3, patience) };
    let error = std::io::Error::last_os_error();
    if n < 0 && error.kind() != std::io::ErrorKind::Interrupted {
        return Err(error.into());
    }
    Ok(polled.map(|p| n > 0 && p.revents != 0))
}

/// Reads what is there. Tells whether nothing more will come.
fn drain(from: &mut impl Read, into: &mut Vec<u8>) -> Result<bool> {
    let mut bytes = [0; 65536];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(true),
            Ok(n) => into.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
