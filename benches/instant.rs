//! Latency of the program in a pseudo-terminal: from start to prompt, and from the Enter key to the
//! next prompt for verbs that compute nothing. `cargo bench --bench instant`.
//!
//! Target: a prompt in under 50 ms, a reply in under 5 ms.

#[cfg(unix)]
#[path = "../tests/common/mod.rs"]
mod common;

/// The number of measurements of each.
#[cfg(unix)]
const TIMES: usize = 30;

#[cfg(unix)]
fn main() {
    use common::terminal::{Terminal, dam};

    let home = tempfile::tempdir().expect("a directory for the history");
    let start = |_| {
        let begun = std::time::Instant::now();
        let terminal = Terminal::start(dam(home.path()), 30, 100);
        terminal.wait_for_bytes(0, "> ");
        begun.elapsed()
    };
    println!("{:32} {:>8}", "", "median");
    report("start to prompt", (0..TIMES).map(start).collect());
    let mut terminal = Terminal::dam(home.path());
    for line in ["help", "help train", "set", "set lr=1e-2", "nonsense"] {
        report(line, (0..TIMES).map(|_| answer(&mut terminal, line)).collect());
    }
    terminal.line("load builtin:japanese builtin:math builtin:sql; wrap; train 3");
    terminal.wait_for_prompt("step 3");
    for line in ["set lr=1e-3", "help loss", "plot loss"] {
        report(
            &format!("{line} (after train)"),
            (0..TIMES).map(|_| answer(&mut terminal, line)).collect(),
        );
    }
}

/// The time from the Enter key after `line` to the next prompt.
#[cfg(unix)]
fn answer(terminal: &mut common::terminal::Terminal, line: &str) -> std::time::Duration {
    terminal.send(line);
    // The input and its hints are drawn before the key is pressed.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let seen = terminal.bytes().len();
    let begun = std::time::Instant::now();
    terminal.send("\r");
    // Bracketed paste is enabled again when the next line starts.
    terminal.wait_for_bytes(seen, "\x1b[?2004h");
    begun.elapsed()
}

#[cfg(unix)]
fn report(what: &str, mut times: Vec<std::time::Duration>) {
    times.sort();
    println!("{what:32} {:5.2} ms", times[times.len() / 2].as_secs_f64() * 1e3);
}

#[cfg(not(unix))]
fn main() {}
