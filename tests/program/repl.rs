//! Tests of the interactive session in a pseudo-terminal.
#![cfg(unix)]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::terminal::{BACKSPACE, ENTER, ESCAPE, RIGHT, TAB, Terminal, UP, ctrl, dam};

/// Two built-in sources, wrapped: a session that trains fast.
const WRAPPED: &str = "load ja=builtin:japanese math=builtin:math; wrap";

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn history(home: &Path) -> String {
    std::fs::read_to_string(home.join("state/dam/history")).unwrap_or_default()
}

#[test]
fn tab_completes_verbs_names_files_and_values() {
    let home = home();
    std::fs::write(home.path().join("my data.jsonl"), "{\"input_ids\": [1, 2, 3]}\n").unwrap();
    let mut dam = Terminal::dam(home.path());
    // All verbs fit on the screen, with their descriptions.
    dam.resize(40, 100);
    dam.send(TAB);
    let screen = dam.wait_for("write the merge as a Hugging Face checkpoint");
    assert!(screen.contains("evolve") && screen.contains("change settings"), "{screen}");
    // A single candidate is inserted, followed by a space.
    dam.send(format!("lo{BACKSPACE}oa{TAB}ja=builtin:j{TAB}builtin:m{TAB}"));
    dam.wait_for("dam> load ja=builtin:japanese builtin:math");
    dam.send(ENTER);
    dam.wait_for_prompt("2 sources");
    dam.send(format!("data math=my{TAB}"));
    dam.wait_for("data math=\"my data.jsonl\"");
    dam.send(ctrl('c'));
    dam.send(format!("set schedule={TAB}"));
    dam.wait_for("current value");
    dam.send(format!("l{TAB}"));
    dam.wait_for("set schedule=linear");
    dam.send(ctrl('c'));
    dam.send(format!("inspect layers.1.mlp.{TAB}"));
    dam.wait_for("down_proj");
    dam.send(ctrl('c'));
    dam.line("quit");
    assert!(dam.end().success());
}

#[test]
fn hints_suggest_the_next_line() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.wait_for("load base=builtin:base ja=builtin:japanese");
    assert!(dam.cell("load base").dim());
    dam.send(RIGHT);
    dam.wait_until("the hint to be accepted", |_| !dam.cell("base=builtin").dim());
    dam.send(ENTER);
    dam.wait_for_prompt("3 sources");
    dam.wait_until("`wrap`", |screen| {
        screen.lines().last().is_some_and(|line| line.ends_with("> wrap"))
    });
    dam.send(ctrl('e'));
    dam.send(ENTER);
    dam.wait_for_prompt("step 0");
    dam.wait_for("train 100");
    // History has priority over suggestions.
    dam.line("set lr=2e-3");
    dam.wait_for("lr=0.002");
    dam.send("se");
    dam.wait_until("the earlier line", |screen| {
        screen.lines().last().is_some_and(|line| line.ends_with("> set lr=2e-3"))
    });
    dam.send(format!("{}{ENTER}", ctrl('f')));
    dam.wait_until("the setting again", |screen| screen.matches("lr=0.002").count() == 2);
}

#[test]
fn verbs_are_coloured_and_errors_underlined() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.send("wrap f=tanh colour=2 ");
    dam.wait_for("colour=2");
    dam.wait_until("red", |_| {
        dam.cell("colour").underline() && dam.cell("colour").fgcolor() == vt100::Color::Idx(1)
    });
    assert!(dam.cell("wrap f").bold() && !dam.cell("tanh").underline());
    dam.send(format!("{}tra", ctrl('u')));
    dam.wait_for("> tra");
    dam.wait_until("no underline yet", |_| !dam.cell("tra").underline());
    dam.send("m ");
    dam.wait_until("an underline", |_| dam.cell("tram").underline());
}

#[test]
fn history_survives_the_session_and_can_be_searched() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    for (line, times) in [("help quit", 1), (" help save", 1), ("help loss", 1), ("help quit", 2)] {
        dam.line(line);
        // The next prompt, with its hint.
        let entered = format!("> {line}\n");
        dam.wait_until("the help", |screen| {
            screen.matches(&entered).count() == times && screen.ends_with("sql")
        });
    }
    // Nothing is lost when the program is killed.
    dam.kill();
    assert_eq!(history(home.path()), "help quit\nhelp loss\nhelp quit\n");
    let mut dam = Terminal::dam(home.path());
    dam.send(format!("{}los", ctrl('r')));
    dam.wait_for("(reverse-i-search)`los': help loss");
    dam.send(ENTER);
    dam.wait_for("every loss term on the next batch");
    dam.wait_for_prompt("");
    dam.send(format!("{UP}{UP}"));
    dam.wait_until("the line before", |screen| screen.ends_with("> help quit"));
    dam.send(ctrl('c'));
    dam.wait_until("the next prompt", |screen| screen.ends_with("sql"));
    dam.send(ctrl('d'));
    assert!(dam.end().success());
    assert!(history(home.path()).ends_with("help quit\nhelp loss\n"));
}

#[test]
fn a_line_continues_until_its_quotation_mark_is_closed() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line("generate \"one");
    dam.wait_for("Ctrl-C to start over");
    dam.line("two\"");
    dam.wait_for("nothing is loaded yet");
    assert_eq!(history(home.path()), "generate \"one\\ntwo\"\n");
    dam.line("generate 'open");
    dam.send(ctrl('c'));
    dam.line("help loss");
    dam.wait_for("every loss term on the next batch");
}

#[test]
fn pasted_lines_run_as_separate_lines() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.paste("help loss # one\r\nhelp quit; help save\nhelp step");
    dam.wait_for("help step");
    assert!(!dam.screen().contains("every loss term"), "nothing runs before the Enter key");
    dam.send(ENTER);
    let screen = dam.wait_for("one optimiser step, or N; shows");
    for text in
        ["every loss term on the next batch", "quit (or Ctrl-D)", "save coefficients, settings"]
    {
        assert!(screen.contains(text), "{text}: {screen}");
    }
    // Type-ahead is not lost.
    dam.send(format!("help loss{ENTER}help evolve{ENTER}"));
    dam.wait_for("on the sources' own data");
}

#[test]
fn an_interrupt_stops_training_but_not_the_session() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(&format!("{WRAPPED}; set device=cpu"));
    dam.wait_for_prompt("step 0");
    dam.line("train 100000");
    std::thread::sleep(Duration::from_millis(1500));
    dam.send(ctrl('c'));
    dam.send(ctrl('c'));
    dam.wait_for_prompt("loss ");
    let prompt = dam.last_line();
    let steps: usize =
        prompt.split("step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(steps > 0 && steps < 100_000, "{prompt}");
    // It also ends the line: the rest does not run.
    dam.line("train 100000; bake half");
    std::thread::sleep(Duration::from_millis(1000));
    dam.send(ctrl('c'));
    dam.wait_for("stopped; not run: bake half");
    dam.wait_for_prompt("loss ");
    assert!(!home.path().join("half").exists());
    let prompt = dam.last_line();
    let steps: usize =
        prompt.split("step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    // At the prompt Ctrl-C only clears the line.
    dam.send(format!("bake x{}", ctrl('c')));
    dam.line("help loss");
    dam.wait_for("every loss term on the next batch");
    dam.wait_for_prompt("loss ");
    assert!(!home.path().join("x").exists());

    // Quitting with unsaved training asks for confirmation.
    dam.send(ctrl('d'));
    dam.wait_for(&format!("{steps} steps of training are not saved: quit anyway?"));
    dam.line("n");
    dam.wait_for_prompt("step");
    dam.line("quit");
    dam.wait_until("the question again", |screen| {
        screen.matches("are not saved: quit anyway?").count() == 2
    });
    std::fs::write(home.path().join("other"), "unrelated").unwrap();
    dam.line("save other");
    dam.wait_for("`other` already exists");
    dam.line("save kept.dam.safetensors");
    assert!(dam.end().success());
    assert_eq!(std::fs::read_to_string(home.path().join("other")).unwrap(), "unrelated");
    assert!(home.path().join("kept.dam.safetensors").is_file());
}

#[test]
fn ctrl_d_twice_quits_without_saving() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(&format!("{WRAPPED}; step"));
    dam.wait_for_prompt("step 1");
    dam.send(ctrl('d'));
    dam.wait_for("1 step of training is not saved");
    dam.send(ctrl('d'));
    assert!(dam.end().success());
}

#[test]
fn the_terminal_can_be_resized_while_typing() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    let words =
        "generate what is twelve plus seven and what is nine plus thirty and what is that together";
    dam.send(words);
    dam.wait_for("together");
    for columns in [40, 20, 120] {
        dam.resize(20, columns);
        std::thread::sleep(Duration::from_millis(100));
    }
    dam.send(" now");
    dam.wait_for("together now");
    dam.send(ENTER);
    dam.wait_for("nothing is loaded yet");
}

#[test]
fn tables_fit_the_terminal() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(WRAPPED);
    dam.wait_for_prompt("step 0");
    for (columns, header) in
        [(100, " tensor "), (60, "tensor "), (40, "tensor layers.1.mlp.up_proj")]
    {
        dam.resize(30, columns);
        dam.line("inspect layers.1.mlp");
        let is_done = |screen: &str| {
            screen
                .lines()
                .last()
                .is_some_and(|line| line.starts_with("dam") && !line.contains("mlp"))
        };
        let screen = dam.wait_until("the last tensor", |screen| {
            screen.contains("0.50 to 0.50") && is_done(screen)
        });
        let begins = |start: &str| screen.lines().any(|line| line.starts_with(start));
        assert!(begins(header), "{columns}:\n{screen}");
        dam.send(ctrl('l'));
        dam.wait_until("an empty screen", |screen| !screen.contains("mlp"));
    }
}

#[test]
fn control_characters_are_ignored() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    // Cancels the line. Keys typed between two prompts belong to the terminal, so this waits until
    // the next prompt is stable.
    let next = |dam: &mut Terminal| {
        let count = |screen: &str| screen.matches("dam>").count();
        let before = count(&dam.screen());
        dam.send(ctrl('c'));
        dam.wait_until("the next prompt", |screen| count(screen) > before);
        std::thread::sleep(Duration::from_millis(300));
    };
    for keys in [
        "\x00\x02\x07\x0b\x0f\x10\x14\x17\x19\x1c\x1e\x1f",
        "\x1b[99~\x1b[1;5Q\x1bOZ\x1b[[A",
        "\x16\x1b[31mred\x16\x07",
        "\x18\x18\x1b2\x1b-x",
    ] {
        dam.send(keys);
        next(&mut dam);
    }
    dam.paste("help \x1b[2Jloss\x07");
    next(&mut dam);
    dam.line("help loss");
    dam.wait_for("every loss term on the next batch");
    assert!(!dam.bytes().windows(4).any(|bytes| bytes == b"\x1b[2J"));
}

#[test]
fn very_long_lines_are_handled_quickly() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    let start = Instant::now();
    let long = "x".repeat(1 << 20);
    // Typed, it is refused and not run in part.
    dam.send(format!("help {long}{ENTER}"));
    dam.wait_for("cannot be typed");
    // Pasted, it is accepted.
    dam.paste(&format!("help {long}"));
    dam.send(ENTER);
    dam.line("help loss");
    dam.wait_for("every loss term on the next batch");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(history(home.path()).len() < 1000);
}

#[test]
fn input_that_is_not_utf_8_is_refused() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.send(b"help \xff\xfe; help quit\r");
    dam.wait_for("is not UTF-8");
    std::thread::sleep(Duration::from_millis(200));
    dam.send(ctrl('c'));
    dam.line("help loss");
    let screen = dam.wait_for("every loss term on the next batch");
    assert!(!screen.contains("quit (or Ctrl-D)"), "{screen}");
}

/// Without colours no escape sequence sets any; a dumb terminal gets no sequences at all.
#[test]
fn colours_are_off_when_unwanted() {
    let sets = |rest: &&str| {
        rest.trim_start_matches(|c: char| c == ';' || c.is_ascii_digit()).starts_with('m')
    };
    let colours =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).split("\x1b[").skip(1).filter(sets).count();
    let home = home();
    for (name, value) in [("TERM", "xterm"), ("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut command = dam(home.path());
        command.env(name, value);
        let mut dam = Terminal::start(command, 30, 100);
        dam.wait_for("dam>");
        dam.line("wrap colour=2; help loss");
        dam.wait_for("unknown key `colour`");
        dam.line("help loss");
        dam.wait_for("every loss term on the next batch");
        match (name, value) {
            ("TERM", "xterm") => assert!(colours(&dam.bytes()) > 0),
            ("NO_COLOR", _) => assert_eq!(colours(&dam.bytes()), 0),
            _ => assert!(!dam.bytes().contains(&0x1b)),
        }
        dam.line("quit");
        assert!(dam.end().success());
    }
}

#[test]
fn vi_keys_are_available_by_flag_and_environment() {
    let home = home();
    for (argument, variable) in [(Some("--vi"), None), (None, Some("vi"))] {
        let mut command = dam(home.path());
        command.args(argument);
        if let Some(value) = variable {
            command.env("DAM_EDIT", value);
        }
        let mut dam = Terminal::start(command, 30, 100);
        dam.wait_for("dam>");
        dam.send("xhelp lossx");
        dam.send(ESCAPE);
        std::thread::sleep(Duration::from_millis(700));
        dam.send("x0x");
        dam.send(ENTER);
        dam.wait_for("every loss term on the next batch");
    }
    let mut command = dam(home.path());
    command.env("DAM_EDIT", "vim");
    let mut dam = Terminal::start(command, 30, 100);
    dam.wait_for("`vim`");
    assert_eq!(dam.end().code(), Some(1));
}

#[test]
fn without_utf_8_the_prompt_is_ascii() {
    let home = home();
    let mut command = dam(home.path());
    command.env("LANG", "C");
    let mut dam = Terminal::start(command, 30, 100);
    dam.wait_for("dam>");
    dam.line(WRAPPED);
    dam.wait_for_prompt("2 sources | step 0");
    dam.line("inspect *.q_proj");
    dam.wait_for("layers.0.self_attn.q_proj");
    dam.wait_for("0.500 ~ 0.000");
    assert!(dam.screen().is_ascii(), "{}", dam.screen());
}

const BEGIN: &str = "load builtin:japanese builtin:math; wrap; set lr=1e-2 batch_size=4";

/// Undoes training, tries a branch, and exports the result as a notebook.
#[test]
fn changes_can_be_undone_branched_and_exported() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(BEGIN);
    dam.wait_for("step 0 >");
    dam.line("train 3");
    dam.wait_for("step 3 · loss");
    dam.line("undo");
    dam.wait_for("step 0 >");
    dam.line("branch bold; set lr=1e-1; train 2");
    dam.wait_for("· bold >");
    dam.line("switch main; redo");
    dam.wait_for("· main >");
    dam.wait_for("step 3 · loss");
    dam.line("history");
    dam.wait_for("train 2");
    dam.line("bake out; export session.ipynb");
    dam.wait_for("session.ipynb");
    dam.line("quit");
    // Baked steps count as saved, those of the other branch do not.
    dam.wait_for("2 steps of training (bold: 2) are not saved: quit anyway?");
    dam.line("y");
    assert!(dam.end().success());
    let notebook: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.path().join("session.ipynb")).unwrap()).unwrap();
    let text = notebook.to_string();
    assert!(
        text.contains("dam.train(3)?") && !text.contains("1e-1") && !text.contains("train(2)"),
        "{text}"
    );
}

/// `dam` after a session ended unexpectedly, once it offers to resume it.
fn start_with_offer(home: &tempfile::TempDir) -> Terminal {
    let dam = Terminal::start(dam(home.path()), 30, 100);
    dam.wait_for("resume it?");
    dam
}

/// A killed session is offered with the training of its last autosave; declined, it is offered once
/// more.
#[test]
fn a_killed_session_is_offered_again() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(BEGIN);
    dam.wait_for("step 0 >");
    dam.line("train 100000");
    dam.wait_for(" left");
    // Training is autosaved once per second.
    std::thread::sleep(Duration::from_secs(2));
    dam.kill();
    let mut dam = start_with_offer(&home);
    dam.wait_for("training was running");
    dam.line("n");
    dam.wait_for_prompt("");
    dam.line("quit");
    assert!(dam.end().success());
    let mut dam = start_with_offer(&home);
    dam.line("y");
    dam.wait_for("2 sources · step ");
    dam.line("history");
    dam.wait_for("train ");
    dam.line("undo");
    dam.wait_for("step 0 >");
    dam.line("quit");
    assert!(dam.end().success());
    // After a normal exit there is nothing to resume.
    drop(Terminal::dam(home.path()));
}

/// An unreadable session is set aside, never deleted, and its saved states are listed.
#[test]
fn an_unreadable_session_is_set_aside() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(&format!("{BEGIN}; train 2"));
    dam.wait_for_prompt("step 2");
    dam.kill();
    let sessions = home.path().join("state/dam/sessions");
    let session = std::fs::read_dir(&sessions).unwrap().next().unwrap().unwrap();
    std::fs::write(session.path().join("journal.jsonl"), "{\"version\":99}\n").unwrap();
    let mut dam = Terminal::start(crate::common::terminal::dam(home.path()), 30, 100);
    dam.wait_for("journal.jsonl");
    dam.wait_for("version 99");
    dam.wait_for("set-aside");
    dam.wait_for("can be opened:");
    dam.wait_for_prompt("");
    let aside = home.path().join("state/dam/set-aside").join(session.file_name());
    let states: Vec<_> =
        std::fs::read_dir(&aside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(
        states.contains(&"journal.jsonl".into()) && states.iter().any(|name| *name == *"4.dam"),
        "{states:?}"
    );
    dam.line(&format!("open {}", aside.join("4.dam").display()));
    dam.wait_for_prompt("step 2");
}

/// Several killed sessions are all listed, and one is resumed or deleted by its number.
#[test]
fn several_killed_sessions_are_listed() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line("load builtin:math");
    dam.wait_for("1 source >");
    dam.kill();
    let mut dam = start_with_offer(&home);
    dam.line("n");
    dam.wait_for_prompt("");
    dam.line("load builtin:japanese builtin:sql");
    dam.wait_for("2 sources >");
    dam.kill();
    let mut dam = Terminal::start(crate::common::terminal::dam(home.path()), 30, 100);
    dam.wait_for("2 sessions ended unexpectedly:");
    dam.wait_for("1  just now: 1 change: load builtin:japanese");
    dam.wait_for("2  ");
    dam.line("3");
    dam.line("d1");
    dam.wait_for("resume it?");
    dam.wait_for("1 change: load builtin:math");
    dam.line("y");
    dam.wait_for("1 source >");
}

/// A line of the history that would fail is not suggested.
#[test]
fn failed_lines_are_not_suggested() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line("help step");
    dam.wait_for("example: step 5");
    dam.line("helq me");
    dam.wait_for("unknown verb");
    dam.send("hel");
    dam.wait_for_prompt("> help step");
}

/// During training a bar and a curve are drawn in place; afterwards only the report remains.
#[test]
fn training_progress_is_drawn_in_place() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(BEGIN);
    dam.wait_for("step 0 >");
    dam.line("train 100000");
    dam.wait_for("per second");
    dam.wait_for("loss, ");
    assert_eq!(dam.screen().matches("loss before each step").count(), 1, "{}", dam.screen());
    dam.send(ctrl('c'));
    dam.wait_for("stopped");
    dam.wait_for("· loss");
    assert!(
        !dam.screen().contains("per second") && !dam.screen().contains("loss before"),
        "{}",
        dam.screen()
    );
}

/// The Rust prompt continues with the merge, Ctrl-C stops what runs there, and the result is
/// imported.
#[test]
#[cfg(feature = "jupyter")]
fn the_rust_prompt_shares_the_merge_with_the_session() {
    crate::common::jupyter::prepare();
    let home = home();
    let mut command = dam(home.path());
    command.env("XDG_CACHE_HOME", crate::common::jupyter::cache());
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        let own = std::env::home_dir().unwrap().join(if name == "CARGO_HOME" {
            ".cargo"
        } else {
            ".rustup"
        });
        command.env(name, std::env::var_os(name).map_or(own, Into::into));
    }
    let mut dam = Terminal::start(command, 40, 110);
    dam.wait_for("dam>");
    dam.line("load builtin:japanese builtin:math; wrap; train 2");
    dam.wait_for("step 2 ·");
    dam.line("rust");
    dam.wait_for("rust>");
    dam.line("dam.steps() + 40");
    dam.wait_for("\n42\n");
    dam.line("dam.set(Settings { lr: 1e-2, ..dam.settings() })?;");
    dam.line("dam.train(1_000_000)?");
    dam.wait_for("1000000  step");
    dam.send(ctrl('c'));
    dam.wait_for("stopped after step");
    dam.line("load([\"nowhere\"])?");
    dam.wait_for("`nowhere`");
    dam.line("back");
    dam.wait_for("now comes from Rust");
    dam.line("undo");
    dam.wait_for("step 2 ·");
    dam.line("redo; set lr");
    dam.wait_for("lr=0.01");
    dam.line("quit");
    dam.wait_for("not saved");
    dam.line("y");
    assert!(dam.end().success());
}

/// Before `wrap`, Rust has the sources with their data and settings, and a merge wrapped there
/// keeps them.
#[test]
#[cfg(feature = "jupyter")]
fn rust_before_wrap_keeps_data_and_settings() {
    crate::common::jupyter::prepare();
    let home = home();
    std::fs::write(home.path().join("own.jsonl"), "{\"text\": \"seven\"}\n{\"text\": \"eight\"}\n")
        .unwrap();
    let mut command = dam(home.path());
    command.env("XDG_CACHE_HOME", crate::common::jupyter::cache()).env_remove("RUST_BACKTRACE");
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        let own = std::env::home_dir().unwrap().join(if name == "CARGO_HOME" {
            ".cargo"
        } else {
            ".rustup"
        });
        command.env(name, std::env::var_os(name).map_or(own, Into::into));
    }
    let mut dam = Terminal::start(command, 40, 110);
    dam.wait_for("dam>");
    dam.line("load builtin:japanese builtin:math; data math=own.jsonl; set lr=2e-2 batch_size=2");
    dam.wait_for("batch_size=2");
    dam.line("rust");
    dam.wait_for("rust>");
    dam.line("(models.settings.lr, models.data_spec(\"math\").unwrap().ends_with(\"own.jsonl\"))");
    dam.wait_for("(0.02, true)");
    dam.line("let dam = models.wrap(Columns::default())?;");
    dam.line("dam.steps() + 40");
    dam.wait_for("\n40\n");
    dam.line("back");
    dam.wait_for("now comes from Rust");
    dam.line("set lr batch_size");
    dam.wait_for("lr=0.02");
    dam.line("quit");
    assert!(dam.end().success());
}

/// Figures are images if the terminal reports support, each in its protocol.
#[test]
fn figures_are_images_where_the_terminal_supports_them() {
    let home = home();
    let drawn = |how: &str, answers: &[(&str, &str)], image: &str| {
        let mut command = dam(home.path());
        command.env("DAM_IMAGES", how).env_remove("TMUX");
        if how == "iterm" {
            command.env("TERM_PROGRAM", "iTerm.app");
        }
        let mut dam = Terminal::start(command, 30, 100);
        dam.wait_for("dam>");
        dam.line("load builtin:japanese builtin:math");
        dam.wait_for("2 sources >");
        let mut from = dam.bytes().len();
        dam.line("plot distances");
        for (asked, answer) in answers {
            from = dam.wait_for_bytes(from, asked);
            dam.send(answer);
        }
        dam.wait_for_bytes(from, image);
        dam.line("help quit");
        dam.wait_for("quit (or Ctrl-D)");
        dam.line("quit");
        assert!(dam.end().success());
    };
    drawn("iterm", &[], "\x1b]1337;File=");
    // An unknown terminal is queried, by this program and then by the image library.
    let sixel = [("\x1b[c", "\x1b[?62;4c"); 2];
    drawn("sixel", &sixel, "\x1bP");
    drawn("", &sixel, "\x1bP");
    let kitty = [
        ("\x1b_G", ""),
        ("\x1b[c", "\x1b_Gi=31;OK\x1b\\\x1b[?62c"),
        ("\x1b_G", ""),
        ("\x1b[c", "\x1b_Gi=31;OK\x1b\\\x1b[?62c"),
        ("t=t", "\x1b_Gi=31;EBADF:no\x1b\\"),
    ];
    drawn("kitty", &kitty, "\x1b_Gf=32");
    // Without support, or without a reply, the figure is text.
    for answers in [[("\x1b[c", "\x1b[?62c")], [("\x1b[c", "")]] {
        drawn("sixel", &answers, "distance of each source");
        drawn("", &answers, "distance of each source");
        drawn("kitty", &answers, "distance of each source");
    }
}

/// Help longer than the screen is paged, and starts with what to type first.
#[test]
fn help_is_paged() {
    let home = home();
    let mut command = dam(home.path());
    command.env("PAGER", "head -n 3; echo paged");
    let mut dam = Terminal::start(command, 30, 100);
    dam.wait_for("dam>");
    dam.line("help");
    let screen = dam.wait_for("paged");
    assert!(screen.contains("To begin:") && !screen.contains("optimiser step"), "{screen}");
    dam.wait_for_prompt("");
    // Text that fits is not paged, and without a pager it is printed directly.
    dam.line("help quit");
    dam.wait_for("quit (or Ctrl-D)");
    dam.line("quit");
    assert!(dam.end().success());
    let mut command = crate::common::terminal::dam(home.path());
    command.env("PAGER", "no-such-pager");
    let mut dam = Terminal::start(command, 30, 100);
    dam.wait_for("dam>");
    dam.line("help");
    dam.wait_for("undo, redo and branches");
    dam.line("quit");
    assert!(dam.end().success());
}
