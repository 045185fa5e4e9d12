//! The relay: a process between evcxr and the process that runs the cells.
//!
//! evcxr collects the output of a cell until its end, one value per type, and does not report an
//! error through `?`. So the output of cells passes through the relay: evcxr receives its own
//! markers, and the kernel receives everything else at once and in order, as lines of JSON on its
//! socket:
//!
//! ```text
//! {"out": TEXT} {"err": TEXT}        standard output and standard error
//! {"block": TYPE, "content": TEXT}   a value to show
//! {"failed": TEXT}                   an error through `?` ended the cell
//! {"panicked": TEXT}                 a panic ended the cell
//! {"runs": true}                     the cell has been compiled and is running
//! {"asks": true}                     the cell is reading standard input
//! {"synced": N}                      everything written before the kernel's request N has been sent
//! ```
//!
//! The kernel sends lines of JSON too: `N` is a sync request, `{"line": TEXT}` is a line of input
//! for the cell, and `{"line": null}` is end of file.
//!
//! The relay outlives the cells' process to deliver its last output. It ends after that process,
//! and kills it if the kernel disconnects.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::stdin;
use crate::kernel::environment::{BACKTRACE, program};

/// Set in the environment of the cells' process.
const INNER: &str = "DAM_CELLS";

/// evcxr's marker of an error through `?`.
const FAILED: &str = "EVCXR_ERROR_OCCURRED";
/// evcxr's marker of a panic.
const PANICKED: &str = "EVCXR_PANIC_NOTIFICATION";
/// evcxr's marker of the end of a cell.
const COMPLETE: &str = "EVCXR_EXECUTION_COMPLETE";
/// evcxr's marker of an input request to evcxr, which evcxr answers itself.
const INPUT_REQUEST: &str = "EVCXR_INPUT_REQUEST";
/// The command with which evcxr runs a cell.
const RUN: &str = "LOAD_AND_RUN ";
const BEGIN: &str = "EVCXR_BEGIN_CONTENT ";
const END: &str = "EVCXR_END_CONTENT";

/// How long text without a newline, or on standard error, is held back for what belongs to it.
const HOLD_MS: i32 = 40;

/// How often the relay checks whether a running cell is reading standard input.
const POLL_MS: i32 = 150;

/// Whether this process was started as the relay.
pub fn is_relay() -> bool {
    std::env::var_os("EVCXR_IS_RUNTIME").is_some()
        && std::env::var_os(dam_prelude::notebook::SOCKET).is_some()
        && std::env::var_os(INNER).is_none()
}

/// Runs the cells' process and relays its output until it ends.
pub fn relay() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cannot run the cells' process: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let socket = std::env::var_os(dam_prelude::notebook::SOCKET).context("there is no socket")?;
    let kernel = UnixStream::connect(socket)?;
    let mut command = Command::new(program()?);
    let (input, theirs) = stdin::pair()?;
    command.args(std::env::args_os().skip(1)).env(INNER, "1");
    command.stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::piped());
    // evcxr enables backtraces; a panic message is clearer without, so only the user's setting
    // counts.
    command.env("RUST_BACKTRACE", std::env::var_os(BACKTRACE).unwrap_or_else(|| "0".into()));
    end_with_parent(&mut command);
    let mut cells = command.spawn()?;
    // Closes the relay's copy of the child's standard input.
    drop(command);
    let (Some(out), Some(err)) = (cells.stdout.take(), cells.stderr.take()) else {
        bail!("the cells' process has no output")
    };
    let mut relay = Relay {
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
        state: CellState::Idle,
    };
    relay.send(&json!({"hello": "cells", "pid": cells.id()}))?;
    let relayed = relay.relay();
    if relayed.is_err() {
        // The kernel has disconnected.
        let _ = cells.kill();
    }
    let status = cells.wait()?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

/// On Linux the cells' process is killed when the relay dies; on other systems the kernel kills it
/// by its id.
fn end_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: the closure only calls prctl, which is safe between fork and exec.
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

/// The state of the cells' process.
#[derive(Clone, Copy, PartialEq)]
enum CellState {
    /// Waiting for a command of evcxr.
    Idle,
    /// Running a cell.
    Running,
    /// Waiting for a line that was requested from evcxr or the kernel.
    AwaitingInput,
}

struct Relay {
    kernel: UnixStream,
    out: ChildStdout,
    err: ChildStderr,
    evcxr: std::io::Stdout,
    /// The incomplete last line of standard output.
    line: Vec<u8>,
    /// Complete lines of standard output that have not been sent.
    text: String,
    /// Standard error that has not been sent.
    errors: Vec<u8>,
    /// The type and content of an incomplete block.
    block: Option<(String, String)>,
    /// The standard input of the cells' process; none after evcxr has closed it.
    input: Option<stdin::CellInput>,
    /// The process id of the cells' process.
    cells: u32,
    /// An incomplete command of evcxr.
    commands: Vec<u8>,
    state: CellState,
}

impl Relay {
    fn relay(&mut self) -> Result<()> {
        for fd in [self.out.as_raw_fd(), self.err.as_raw_fd()] {
            // SAFETY: fcntl takes no pointers here, and the descriptors are open.
            unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
        }
        let mut requests = self.kernel.try_clone()?;
        let mut buffered = Vec::new();
        let mut last_check = Instant::now();
        loop {
            // Without held-back output there is no need to wake up.
            let nothing_held = self.errors.is_empty() && self.line.is_empty();
            let timeout = match (nothing_held, self.state) {
                (false, _) => HOLD_MS,
                (true, CellState::Running) => POLL_MS,
                (true, _) => -1,
            };
            // After evcxr has closed its end, its descriptor is not polled: poll ignores negative
            // descriptors.
            let evcxr = if self.input.is_some() { std::io::stdin().as_raw_fd() } else { -1 };
            let ready = wait(
                [self.out.as_raw_fd(), self.err.as_raw_fd(), requests.as_raw_fd(), evcxr],
                timeout,
            )?;
            if ready == [false; 4] {
                self.flush()?;
            }
            let is_time = self.state == CellState::Running
                && last_check.elapsed() >= Duration::from_millis(POLL_MS as u64);
            if is_time {
                last_check = Instant::now();
            }
            let waits = is_time && stdin::is_reading(self.cells);
            let ended = self.read_output()?;
            // A cell that has ended reads too, for evcxr's next command; its end marker was
            // processed before.
            if waits && self.state == CellState::Running {
                self.state = CellState::AwaitingInput;
                self.flush()?;
                self.send(&json!({"asks": true}))?;
            }
            if ready[3] {
                self.forward_commands()?;
            }
            if ready[2] {
                let mut bytes = [0; 1024];
                match requests.read(&mut bytes)? {
                    0 => bail!("the kernel has disconnected"),
                    n => buffered.extend_from_slice(&bytes[..n]),
                }
                while let Some(end) = buffered.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = buffered.drain(..=end).collect();
                    let message: Value = serde_json::from_slice(&line).unwrap_or_default();
                    match message.get("line") {
                        Some(line) => self.deliver_input(line.as_str())?,
                        None => {
                            self.flush()?;
                            self.send(&json!({"synced": message}))?;
                        }
                    }
                }
            }
            if ended {
                return self.flush();
            }
        }
    }

    /// Reads the available output. Returns whether it has ended.
    ///
    /// Standard output is read first and standard error sent first: then standard error written
    /// before a marker is available when the marker is processed.
    fn read_output(&mut self) -> Result<bool> {
        let mut written = Vec::new();
        let ended = drain(&mut self.out, &mut written)?;
        drain(&mut self.err, &mut self.errors)?;
        self.process_output(&written)?;
        Ok(ended)
    }

    /// Forwards commands of evcxr to the cells' process.
    fn forward_commands(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        // Unbuffered: poll would not report data left in a buffer.
        let read = rustix::io::read(std::io::stdin(), &mut bytes)?;
        if read == 0 {
            self.input = None;
            return Ok(());
        }
        self.commands.extend_from_slice(&bytes[..read]);
        while let Some(end) = self.commands.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.commands.drain(..=end).collect();
            if line.starts_with(RUN.as_bytes()) {
                self.send(&json!({"runs": true}))?;
            }
            self.state = CellState::Running;
            self.write_input(&line);
        }
        Ok(())
    }

    /// Delivers the kernel's answer to the cell that is reading; none is end of file.
    fn deliver_input(&mut self, line: Option<&str>) -> Result<()> {
        // The cell may have ended meanwhile, and its process must not take the answer for a
        // command.
        let waits = stdin::is_reading(self.cells);
        self.read_output()?;
        if self.state != CellState::AwaitingInput || !waits {
            return Ok(());
        }
        self.state = CellState::Running;
        match line {
            Some(line) => self.write_input(format!("{line}\n").as_bytes()),
            None => self.input.as_mut().map_or(Ok(()), stdin::CellInput::end_of_file)?,
        }
        Ok(())
    }

    /// Writes a line to the cells' process. Failure is ignored: the end of its output reveals that
    /// it has ended.
    fn write_input(&mut self, line: &[u8]) {
        let _ = self.input.as_mut().map(|input| input.write_line(line));
    }

    /// Processes standard output line by line.
    fn process_output(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.process_line(&String::from_utf8_lossy(&line))?;
            }
        }
        if self.line.len() > MAX_BYTES {
            self.flush()?;
        }
        self.send_text()
    }

    fn process_line(&mut self, line: &str) -> Result<()> {
        // Text printed without a newline may precede a marker.
        if self.block.is_none()
            && let Some(at) = line.find("EVCXR_").filter(|at| *at > 0)
        {
            self.send_errors()?;
            self.text.push_str(&line[..at]);
            return self.process_line(&line[at..]);
        }
        let bare = line.trim_end_matches(['\r', '\n']);
        if bare == PANICKED || bare == FAILED {
            self.block = None;
            let what = if bare == FAILED { "failed" } else { "panicked" };
            let text = self.error_text();
            self.send(&json!({what: text}))?;
            return self.forward_marker(line);
        }
        if let Some((kind, content)) = &mut self.block {
            if bare == END {
                let block = json!({"block": kind, "content": content.trim_end_matches('\n')});
                self.block = None;
                return self.send(&block);
            }
            content.push_str(line);
            return Ok(());
        }
        self.send_errors()?;
        match bare.strip_prefix(BEGIN) {
            Some(kind) => self.block = Some((kind.to_owned(), String::new())),
            None if bare.starts_with("EVCXR_") => self.forward_marker(line)?,
            // Lines are sent together.
            None => self.text.push_str(line),
        }
        Ok(())
    }

    /// Sends the complete lines.
    fn send_text(&mut self) -> Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        self.send(&json!({"out": text}))
    }

    /// Sends everything held back.
    fn flush(&mut self) -> Result<()> {
        self.send_errors()?;
        let is_marker =
            "EVCXR_".as_bytes().starts_with(&self.line) || self.line.starts_with(b"EVCXR_");
        if self.block.is_none() && !is_marker && std::str::from_utf8(&self.line).is_ok() {
            let line = std::mem::take(&mut self.line);
            self.send(&json!({"out": String::from_utf8_lossy(&line)}))?;
        }
        Ok(())
    }

    fn error_text(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.errors)).into_owned()
    }

    fn send_errors(&mut self) -> Result<()> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let text = self.error_text();
        self.send(&json!({"err": text}))
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        // Earlier text goes first.
        self.send_text()?;
        Ok(writeln!(self.kernel, "{message}")?)
    }

    fn forward_marker(&mut self, line: &str) -> Result<()> {
        self.send_text()?;
        match line.trim_end() {
            COMPLETE => self.state = CellState::Idle,
            request if request.starts_with(INPUT_REQUEST) => self.state = CellState::AwaitingInput,
            _ => {}
        }
        self.evcxr.write_all(line.as_bytes())?;
        Ok(self.evcxr.flush()?)
    }
}

/// Which of `fds` are readable or closed; none after `timeout` milliseconds, where -1 means
/// forever.
fn wait(fds: [RawFd; 4], timeout: i32) -> Result<[bool; 4]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: the pointer is to a live array of four entries.
    let n = unsafe { libc::poll(polled.as_mut_ptr(), 4, timeout) };
    let error = std::io::Error::last_os_error();
    if n < 0 && error.kind() != std::io::ErrorKind::Interrupted {
        return Err(error.into());
    }
    Ok(polled.map(|p| n > 0 && p.revents != 0))
}

/// The most bytes read at once, and held back of an incomplete line: a cell may write without end.
const MAX_BYTES: usize = 1 << 20;

/// Reads the available bytes. Returns whether the stream has ended.
fn drain(from: &mut impl Read, into: &mut Vec<u8>) -> Result<bool> {
    let mut bytes = [0; 65536];
    let most = into.len() + MAX_BYTES;
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
