//! A build of cells, seen while it runs: what is built is told to the kernel, which may stop it.
//!
//! ```text
//! {"hello": "cargo"}                                          who speaks
//! {"building": "12 of 245: serde, syn", "after": TEXT}        what is under way, and what is to be said at the end
//! stop                                                        from the kernel
//! ```
//!
//! evcxr takes every error for one of the cell. Those of other crates are told as text instead.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

use super::cargo::{SOCKET, status};

/// The crate that evcxr makes of a cell.
const CELL: &str = "ctx";

/// Runs cargo, and does with its output what is said above.
pub fn run(command: Command) -> ExitCode {
    watched(command, |line| println!("{line}"))
}

/// The same, with cargo's messages given to `each`.
pub fn watched(mut command: Command, each: impl FnMut(String) + Send + 'static) -> ExitCode {
    let kernel = std::env::var_os(SOCKET).and_then(|socket| UnixStream::connect(socket).ok());
    // Cargo shows how far it has come where it is told how wide a line is.
    command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", "100");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("cargo does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let group = child.id().cast_signed();
    let listening = kernel.as_ref().and_then(|kernel| kernel.try_clone().ok());
    if let Some(listening) = listening {
        std::thread::spawn(move || {
            // Asked to stop, or the kernel is gone.
            let _ = BufReader::new(listening).read_line(&mut String::new());
            // SAFETY: sends a signal, no more; the group is of the child, which has not been waited for.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        });
    }
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else { return ExitCode::FAILURE };
    let messages = std::thread::spawn(move || messages(out, each));
    said(err, kernel);
    let foreign = messages.join().unwrap_or_default();
    eprint!("{foreign}");
    status(child.wait())
}

/// Passes on cargo's messages, but for errors of crates that are no cell, which are given as text.
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

/// The text of a message of the compiler about a crate that is no cell.
fn foreign_error(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-message" || message["target"]["name"] == CELL {
        return None;
    }
    let is_error = message["message"]["level"] == "error";
    Some(message["message"]["rendered"].as_str().filter(|_| is_error).unwrap_or_default().to_owned())
}

/// Tells the kernel how far cargo has come, and passes on whatever else it says.
fn said(err: impl Read, mut kernel: Option<UnixStream>) {
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
        if !next(&mut err, &mut piece) {
            return;
        }
        let text = console::strip_ansi_codes(&String::from_utf8_lossy(&piece)).trim().to_owned();
        if let Some(name) = text.strip_prefix("Compiling ") {
            built += usize::from(!name.starts_with(&format!("{CELL} ")));
        } else if let Some(rest) = text.strip_prefix("Building [") {
            if let Some(progress) = progress(rest) {
                let crates = if built == 1 { "crate" } else { "crates" };
                tell(json!({"building": progress, "after": format!("built {built} {crates}")}));
            }
        } else if !text.is_empty() {
            eprintln!("{text}");
        }
    }
}

/// Reads to the end of a line, or of what is written over. Tells whether there was anything.
fn next(from: &mut impl BufRead, piece: &mut Vec<u8>) -> bool {
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

/// How far cargo has come, of `===>  ] 12/245: serde, syn`; none while it builds the cell alone.
fn progress(bar: &str) -> Option<String> {
    let (_, rest) = bar.split_once("] ")?;
    let (numbers, names) = rest.split_once(':')?;
    let (done, all) = numbers.split_once('/')?;
    let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != CELL).collect();
    (!names.is_empty()).then(|| format!("{} of {}: {}", done.trim(), all.trim(), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_other_crates_is_told() {
        assert_eq!(progress("===>   ] 12/245: serde, syn").as_deref(), Some("12 of 245: serde, syn"));
        assert_eq!(progress("======>] 244/245: ctx"), None);
        assert_eq!(progress("nothing"), None);
    }

    #[test]
    fn errors_of_other_crates_are_text() {
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
