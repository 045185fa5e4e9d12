//! The program as a user meets it: commands, the prompt, scripts, undo and export.

#[path = "../common/mod.rs"]
mod common;

mod examples;
mod export;
mod program;
mod repl;
mod trace;
mod transcripts;
mod undo;
