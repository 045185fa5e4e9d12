//! Runs cargo for a cell and reports its progress to the kernel, which may stop the build.
//!
//! ```text
//! {"hello": "cargo"}                                          the sender
//! {"building": "12 of 245: serde, syn", "after": TEXT}        the progress, and the text shown at the end
//! stop                                                        from the kernel
//! ```
//!
//! evcxr attributes every compiler error to the cell. Errors in other crates are printed as text
//! instead.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::kernel::environment::{SOCKET, status};

/// The crate that evcxr generates from a cell.
pub const CELL: &str = "ctx";

/// Runs cargo with progress reports, and passes its messages to standard output.
pub fn run(command: Command) -> ExitCode {
    run_with_messages(command, |line| println!("{line}"))
}

/// The same, with each of cargo's messages passed to `each`.
pub fn run_with_messages(command: Command, each: impl FnMut(String) + Send + 'static) -> ExitCode {
    run_reporting(command, kernel(), each)
}

/// The same, with progress sent to `kernel`.
fn run_reporting(
    mut command: Command,
    kernel: Option<UnixStream>,
    each: impl FnMut(String) + Send + 'static,
) -> ExitCode {
    // Cargo reports progress only if the width of a line is set.
    command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", "100");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    run_stoppable("cargo", command, kernel, |child, kernel| {
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else { return };
        let messages = std::thread::spawn(move || messages(out, each));
        report_progress(err, kernel);
        let foreign = messages.join().unwrap_or_default();
        eprint!("{foreign}");
    })
}

/// Runs rustc for the cell, and passes its messages to standard output as cargo does.
pub fn run_rustc(mut command: Command) -> ExitCode {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    run_stoppable("rustc", command, kernel(), |child, kernel| {
        if let Some(mut kernel) = kernel {
            let _ = writeln!(kernel, "{}", json!({"hello": "cargo"}));
        }
        for line in child.stderr.take().into_iter().flat_map(|err| BufReader::new(err).lines()) {
            let Ok(line) = line else { break };
            match serde_json::from_str::<Value>(&line) {
                Ok(message) if message["message"].is_string() => println!(
                    "{}",
                    json!({"reason": "compiler-message", "target": {"name": CELL}, "message": message})
                ),
                // A file that was written.
                Ok(_) => {}
                Err(_) => eprintln!("{line}"),
            }
        }
    })
}

/// Runs `command`, which is called `name`, in a process group that the kernel may stop; `read`
/// reads its output and reports to the kernel.
fn run_stoppable(
    name: &str,
    mut command: Command,
    kernel: Option<UnixStream>,
    read: impl FnOnce(&mut Child, Option<UnixStream>),
) -> ExitCode {
    let mut child = match command.process_group(0).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("{name} does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let group = Group::of(&child);
    let listener = kernel.as_ref().and_then(|kernel| StopListener::begin(kernel, &group));
    read(&mut child, kernel);
    let ended = group.wait(child);
    if let Some(listener) = listener {
        listener.end();
    }
    status(ended)
}

/// A connection to the kernel.
fn kernel() -> Option<UnixStream> {
    std::env::var_os(SOCKET).and_then(|socket| UnixStream::connect(socket).ok())
}

/// The process group of a child; none once the child has been waited for, because its id may then
/// be reused.
#[derive(Clone)]
struct Group(Arc<Mutex<Option<i32>>>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(Arc::new(Mutex::new(Some(child.id().cast_signed()))))
    }

    /// Kills the group, if it still exists.
    fn kill(&self) {
        if let Some(group) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: kill only sends a signal. The group is that of a child that has not been
            // waited for: `wait` clears it under this lock first.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }

    /// Waits for the child of this group.
    fn wait(&self, mut child: Child) -> std::io::Result<ExitStatus> {
        wait_unreaped(&child);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        child.wait()
    }
}

/// Waits until a child has ended, but leaves it unreaped so that its id stays valid.
fn wait_unreaped(child: &Child) {
    loop {
        // SAFETY: a siginfo_t of zeros is valid.
        let mut ended: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live siginfo_t.
        let done = unsafe {
            libc::waitid(libc::P_PID, child.id(), &raw mut ended, libc::WEXITED | libc::WNOWAIT)
        };
        if done == 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// A thread that kills the group when the kernel requests it or disconnects.
struct StopListener {
    kernel: UnixStream,
    thread: JoinHandle<()>,
}

impl StopListener {
    fn begin(kernel: &UnixStream, group: &Group) -> Option<Self> {
        let (received, kernel, group) =
            (kernel.try_clone().ok()?, kernel.try_clone().ok()?, group.clone());
        let thread = std::thread::spawn(move || {
            let _ = BufReader::new(received).read_line(&mut String::new());
            group.kill();
        });
        Some(Self { kernel, thread })
    }

    /// Stops listening.
    fn end(self) {
        let _ = self.kernel.shutdown(Shutdown::Both);
        let _ = self.thread.join();
    }
}

/// Passes on cargo's messages, except errors in other crates, which are returned as text.
fn messages(out: impl Read, mut each: impl FnMut(String)) -> String {
    let mut foreign = String::new();
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        match foreign_error(&line) {
            Some(text) => foreign += &text,
            None => each(line),
        }
    }
    foreign
}

/// The text of a compiler message about another crate than the cell; empty unless it is an error.
fn foreign_error(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-message" || message["target"]["name"] == CELL {
        return None;
    }
    let is_error = message["message"]["level"] == "error";
    Some(
        message["message"]["rendered"].as_str().filter(|_| is_error).unwrap_or_default().to_owned(),
    )
}

/// Reports cargo's progress to the kernel, and prints everything else.
fn report_progress(err: impl Read, mut kernel: Option<UnixStream>) {
    let mut tell = |message: Value| {
        if let Some(stream) = &mut kernel {
            let _ = writeln!(stream, "{message}");
        }
    };
    tell(json!({"hello": "cargo"}));
    let mut built = 0;
    let mut err = BufReader::new(err);
    loop {
        let mut piece = Vec::new();
        if !read_piece(&mut err, &mut piece) {
            return;
        }
        let text = console::strip_ansi_codes(&String::from_utf8_lossy(&piece)).trim().to_owned();
        if let Some(name) = text.strip_prefix("Compiling ") {
            built += usize::from(!name.starts_with(&format!("{CELL} ")));
        } else if let Some(rest) = text.strip_prefix("Building [") {
            if let Some(progress) = parse_progress(rest) {
                let crates = if built == 1 { "crate" } else { "crates" };
                tell(json!({"building": progress, "after": format!("built {built} {crates}")}));
            }
        } else if !text.is_empty() {
            eprintln!("{text}");
        }
    }
}

/// Reads up to a newline or carriage return. Returns whether there was anything to read.
fn read_piece(from: &mut impl BufRead, piece: &mut Vec<u8>) -> bool {
    loop {
        let Ok(bytes) = from.fill_buf() else { return false };
        if bytes.is_empty() {
            return !piece.is_empty();
        }
        match bytes.iter().position(|b| b"\r\n".contains(b)) {
            Some(end) => {
                piece.extend_from_slice(&bytes[..end]);
                from.consume(end + 1);
                return true;
            }
            None => {
                piece.extend_from_slice(bytes);
                let length = bytes.len();
                from.consume(length);
            }
        }
    }
}

/// The progress in a line such as `===>  ] 12/245: serde, syn`; none while only the cell is being
/// built.
fn parse_progress(bar: &str) -> Option<String> {
    let (_, rest) = bar.split_once("] ")?;
    let (numbers, names) = rest.split_once(':')?;
    let (done, all) = numbers.split_once('/')?;
    let names: Vec<&str> =
        names.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != CELL).collect();
    (!names.is_empty()).then(|| format!("{} of {}: {}", done.trim(), all.trim(), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// What the kernel receives about a build, up to the end of the connection.
    fn received(kernel: &UnixStream) -> String {
        kernel.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = String::new();
        BufReader::new(kernel).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_finished_build_closes_its_connection_and_is_not_killed_later() {
        let (kernel, own) = UnixStream::pair().unwrap();
        let done = run_reporting(Command::new("true"), Some(own), |_| {});
        assert_eq!(done, ExitCode::SUCCESS);
        // The connection is closed, so the listening thread has ended.
        assert!(received(&kernel).contains("hello"));
        let child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let group = Group::of(&child);
        group.kill();
        wait_unreaped(&child);
        assert!(group.0.lock().unwrap().is_some(), "its id is still valid");
        assert!(!group.wait(child).unwrap().success());
        assert_eq!(*group.0.lock().unwrap(), None, "its id may be reused");
    }

    #[test]
    fn the_kernel_can_stop_a_build() {
        let (mut kernel, own) = UnixStream::pair().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & sleep 600"]);
        let begin = Instant::now();
        let build = std::thread::spawn(move || run_reporting(command, Some(own), |_| {}));
        writeln!(kernel, "stop").unwrap();
        assert_ne!(build.join().unwrap(), ExitCode::SUCCESS);
        assert!(begin.elapsed() < Duration::from_secs(60));
        assert!(received(&kernel).contains("hello"));
    }

    #[test]
    fn the_progress_of_other_crates_is_reported() {
        assert_eq!(
            parse_progress("===>   ] 12/245: serde, syn").as_deref(),
            Some("12 of 245: serde, syn")
        );
        assert_eq!(parse_progress("======>] 244/245: ctx"), None);
        assert_eq!(parse_progress("nothing"), None);
    }

    #[test]
    fn errors_in_other_crates_become_text() {
        let message = |name: &str, level: &str| {
            json!({"reason": "compiler-message", "target": {"name": name}, "message": {"level": level, "rendered": "E"}})
                .to_string()
        };
        assert_eq!(foreign_error(&message("dice", "error")).as_deref(), Some("E"));
        assert_eq!(foreign_error(&message("dice", "warning")).as_deref(), Some(""));
        assert_eq!(foreign_error(&message("ctx", "error")), None);
        assert_eq!(foreign_error("{\"reason\": \"build-finished\"}"), None);
    }
}
