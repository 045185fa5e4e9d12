//! Long text on a terminal, a screen at a time: through `PAGER`, or `less` where there is one.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

use crate::terminal;

/// Shows `text` a screen at a time, where it is longer than the terminal and a person looks at it; whether it was shown.
pub fn page(text: &str) -> bool {
    let is_watched = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !is_watched || text.lines().count() < terminal::rows() {
        return false;
    }
    let command = match std::env::var("PAGER") {
        Ok(command) if command.trim().is_empty() || command.trim() == "cat" => return false,
        Ok(command) => command,
        Err(_) => "less".into(),
    };
    // `less` leaves the text on the screen.
    let less = std::env::var("LESS").unwrap_or_else(|_| "FRX".into());
    let child = Command::new("sh").args(["-c", &command]).env("LESS", less).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return false };
    if let Some(mut input) = child.stdin.take() {
        // Whoever has seen enough leaves.
        let _ = input.write_all(text.as_bytes());
    }
    // The shell says 127 where there is no such program.
    child.wait().is_ok_and(|status| status.code() != Some(127))
}
