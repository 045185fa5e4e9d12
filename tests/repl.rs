//! The interactive session, in a pseudo-terminal.
#![cfg(unix)]

mod common;

use common::terminal::Terminal;

/// What stands on the screen is what a person sees.
#[test]
fn the_prompt_answers() {
    let home = tempfile::tempdir().unwrap();
    let mut dam = Terminal::dam(home.path());
    dam.line("help quit");
    dam.wait_for("Ctrl-D does too");
    dam.line("quit");
    assert!(dam.end().success());
}
