//! Transcripts of sessions: every line of `tests/data/transcripts/` that begins with a prompt is
//! typed into a pseudo-terminal, and the screen must match the file, with numbers compared to four
//! digits and measured times ignored. `DAM_TRANSCRIPTS=update` rewrites the files.
#![cfg(unix)]

use std::path::Path;

use crate::common::terminal::{Terminal, dam};
use crate::common::text::same_text;

/// The input lines of a transcript.
fn typed(transcript: &str) -> Vec<String> {
    let line = |line: &str| {
        line.strip_prefix("dam")
            .and_then(|rest| rest.split_once("> "))
            .map(|(_, typed)| typed.to_owned())
    };
    transcript.lines().filter_map(line).filter(|typed| !typed.is_empty()).collect()
}

/// The screen after all lines, without the last prompt.
fn seen(lines: &[String]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = dam(home.path());
    // Otherwise hints would appear on the screen.
    command.env("NO_COLOR", "1");
    let mut dam = Terminal::start(command, 250, 100);
    let prompts = |screen: &str| {
        screen
            .lines()
            .filter(|line| line.starts_with("dam") && (line.contains("> ") || line.ends_with('>')))
            .count()
    };
    dam.wait_for("dam>");
    for (i, line) in lines.iter().enumerate() {
        dam.line(line);
        dam.wait_until("the next prompt", |screen| prompts(screen) == i + 2);
    }
    let screen = dam.screen();
    let shown: Vec<&str> = screen.lines().collect();
    // Hides the temporary directory.
    let text = shown[1..shown.len() - 1].join("\n") + "\n";
    text.replace(&home.path().display().to_string(), "~")
}

fn transcript(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/transcripts").join(name);
    let committed = std::fs::read_to_string(&file).unwrap();
    let found = seen(&typed(&committed));
    if std::env::var_os("DAM_TRANSCRIPTS").is_some_and(|value| value == "update") {
        std::fs::write(file, found).unwrap();
    } else if let Err(difference) = same_text(&committed, &found) {
        panic!("{name}: {difference}");
    }
}

#[test]
fn a_first_merge() {
    transcript("first_merge.txt");
}

#[test]
fn undo_and_branches() {
    transcript("undo.txt");
}

#[test]
fn mistakes_have_hints() {
    transcript("mistakes.txt");
}
