//! Shows long text in a pager: `PAGER`, or `less`.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

use crate::terminal::screen;

/// Shows `text` in the pager if input and output are terminals and it does not fit the screen;
/// returns whether it was shown.
pub fn page(text: &str) -> bool {
    let is_watched = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !is_watched || text.lines().count() < screen::rows() {
        return false;
    }
    let command = match std::env::var("PAGER") {
        Ok(command) if command.trim().is_empty() || command.trim() == "cat" => return false,
        Ok(command) => command,
        Err(_) => "less".into(),
    };
    // These options leave the text on the screen.
    let less = std::env::var("LESS").unwrap_or_else(|_| "FRX".into());
    let child =
        Command::new("sh").args(["-c", &command]).env("LESS", less).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return false };
    if let Some(mut input) = child.stdin.take() {
        // The pager may quit before it has read everything.
        let _ = input.write_all(text.as_bytes());
    }
    // The shell exits with 127 if the program does not exist.
    child.wait().is_ok_and(|status| status.code() != Some(127))
}
