//! The interactive session, in a pseudo-terminal: what one types, and what one sees.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::terminal::{BACKSPACE, ENTER, ESCAPE, RIGHT, TAB, Terminal, UP, ctrl, dam};

/// Two built-in sources, wrapped: a session that trains fast.
const WRAPPED: &str = "load ja=builtin:japanese math=builtin:math; wrap";

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn history(home: &Path) -> String {
    std::fs::read_to_string(home.join("state/dam/history")).unwrap_or_default()
}

#[test]
fn tab_completes_what_may_stand_there() {
    let home = home();
    std::fs::write(home.path().join("my data.jsonl"), "{\"input_ids\": [1, 2, 3]}\n").unwrap();
    let mut dam = Terminal::dam(home.path());
    // Verbs, with what they do.
    dam.send(TAB);
    let screen = dam.wait_for("write the merge as a Hugging Face checkpoint");
    assert!(screen.contains("evolve") && screen.contains("change settings"), "{screen}");
    // One that is left is put there, a blank behind it.
    dam.send(format!("lo{BACKSPACE}oa{TAB}ja=builtin:j{TAB}builtin:m{TAB}"));
    dam.wait_for("dam> load ja=builtin:japanese builtin:math");
    dam.send(ENTER);
    dam.wait_for_prompt("2 sources");
    dam.send(format!("data math=my{TAB}"));
    dam.wait_for("data math=\"my data.jsonl\"");
    dam.send(ctrl('c'));
    dam.send(format!("set schedule={TAB}"));
    dam.wait_for("as it is");
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
fn grey_hints_say_what_comes_next() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.wait_for("load base=builtin:base ja=builtin:japanese");
    assert!(dam.cell("load base").dim());
    dam.send(RIGHT);
    dam.wait_until("what was grey to be typed", |_| !dam.cell("base=builtin").dim());
    dam.send(ENTER);
    dam.wait_for_prompt("3 sources");
    dam.wait_until("`wrap`", |screen| screen.lines().last().is_some_and(|line| line.ends_with("> wrap")));
    dam.send(ctrl('e'));
    dam.send(ENTER);
    dam.wait_for_prompt("step 0");
    dam.wait_for("train 100");
    // What was entered before goes before what makes sense.
    dam.line("set lr=2e-3");
    dam.wait_for("lr=0.002");
    dam.send("se");
    dam.wait_until("the earlier line", |screen| screen.lines().last().is_some_and(|line| line.ends_with("> set lr=2e-3")));
    dam.send(format!("{}{ENTER}", ctrl('f')));
    dam.wait_until("the setting again", |screen| screen.matches("lr=0.002").count() == 2);
}

#[test]
fn verbs_are_coloured_and_mistakes_underlined() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.send("wrap f=tanh colour=2 ");
    dam.wait_for("colour=2");
    dam.wait_until("red", |_| dam.cell("colour").underline() && dam.cell("colour").fgcolor() == vt100::Color::Idx(1));
    assert!(dam.cell("wrap f").bold() && !dam.cell("tanh").underline());
    dam.send(format!("{}tra", ctrl('u')));
    dam.wait_for("> tra");
    dam.wait_until("no mistake yet", |_| !dam.cell("tra").underline());
    dam.send("m ");
    dam.wait_until("a mistake", |_| dam.cell("tram").underline());
}

#[test]
fn history_outlives_the_session_and_is_searched() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    for (line, times) in [("help quit", 1), (" help save", 1), ("help loss", 1), ("help quit", 2)] {
        dam.line(line);
        // The next prompt, with its hint.
        let entered = format!("> {line}\n");
        dam.wait_until("the help", |screen| screen.matches(&entered).count() == times && screen.ends_with("sql"));
    }
    // Nothing is lost with the program.
    dam.kill();
    assert_eq!(history(home.path()), "help quit\nhelp loss\nhelp quit\n");
    let mut dam = Terminal::dam(home.path());
    dam.send(format!("{}los", ctrl('r')));
    dam.wait_for("(reverse-i-search)`los': help loss");
    dam.send(ENTER);
    dam.wait_for("every term of the objective");
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
fn a_line_goes_on_until_its_quotation_mark_is_closed() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line("generate \"one");
    dam.wait_for("Ctrl-C begins anew");
    dam.line("two\"");
    dam.wait_for("nothing is loaded yet");
    assert_eq!(history(home.path()), "generate \"one\\ntwo\"\n");
    dam.line("generate 'open");
    dam.send(ctrl('c'));
    dam.line("help loss");
    dam.wait_for("every term of the objective");
}

#[test]
fn pasted_lines_run_as_lines() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.paste("help loss # one\r\nhelp quit; help save\nhelp step");
    dam.wait_for("help step");
    assert!(!dam.screen().contains("every term"), "nothing runs before the enter key");
    dam.send(ENTER);
    let screen = dam.wait_for("or N of them");
    for text in ["every term of the objective", "Ctrl-D does too", "keep coefficients"] {
        assert!(screen.contains(text), "{text}: {screen}");
    }
    // What is typed ahead is not lost either.
    dam.send(format!("help loss{ENTER}help evolve{ENTER}"));
    dam.wait_for("judged on the sources");
}

#[test]
fn an_interrupt_stops_training_and_not_the_session() {
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
    let steps: usize = prompt.split("step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(steps > 0 && steps < 100_000, "{prompt}");
    // It ends the line too: what follows in it does not run.
    dam.line("train 100000; bake half");
    std::thread::sleep(Duration::from_millis(1000));
    dam.send(ctrl('c'));
    dam.wait_for("stopped, so not run: bake half");
    dam.wait_for_prompt("loss ");
    assert!(!home.path().join("half").exists());
    let prompt = dam.last_line();
    let steps: usize = prompt.split("step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    // At the prompt it only clears the line.
    dam.send(format!("bake x{}", ctrl('c')));
    dam.line("help loss");
    dam.wait_for("every term of the objective");
    dam.wait_for_prompt("loss ");
    assert!(!home.path().join("x").exists());

    // Nobody leaves training behind unasked.
    dam.send(ctrl('d'));
    dam.wait_for(&format!("{steps} steps of training are not saved: leave?"));
    dam.line("n");
    dam.wait_for_prompt("step");
    dam.line("quit");
    dam.wait_until("the question again", |screen| screen.matches("are not saved: leave?").count() == 2);
    std::fs::write(home.path().join("other"), "of somebody").unwrap();
    dam.line("save other");
    dam.wait_for("`other` already exists");
    dam.line("save kept.dam.safetensors");
    assert!(dam.end().success());
    assert_eq!(std::fs::read_to_string(home.path().join("other")).unwrap(), "of somebody");
    assert!(home.path().join("kept.dam.safetensors").is_file());
}

#[test]
fn who_says_nothing_twice_leaves() {
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
fn another_size_while_one_types() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    let words = "generate what is twelve plus seven and what is nine plus thirty and what is that together";
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
    for (columns, header) in [(100, " tensor "), (60, "tensor "), (40, "tensor layers.1.mlp.up_proj")] {
        dam.resize(30, columns);
        dam.line("inspect layers.1.mlp");
        let is_done = |screen: &str| screen.lines().last().is_some_and(|line| line.starts_with("dam") && !line.contains("mlp"));
        let screen = dam.wait_until("the last tensor", |screen| screen.contains("0.50 to 0.50") && is_done(screen));
        let begins = |start: &str| screen.lines().any(|line| line.starts_with(start));
        assert!(begins(header), "{columns}:\n{screen}");
        dam.send(ctrl('l'));
        dam.wait_until("an empty screen", |screen| !screen.contains("mlp"));
    }
}

#[test]
fn control_characters_do_no_harm() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    // Ends the line. What is typed between two lines is the terminal's: the next prompt is waited for, and that it stays.
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
    dam.wait_for("every term of the objective");
    assert!(!dam.bytes().windows(4).any(|bytes| bytes == b"\x1b[2J"));
}

#[test]
fn very_long_lines_take_no_time() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    let start = Instant::now();
    let long = "x".repeat(1 << 20);
    // Typed: it is refused, and not run in part.
    dam.send(format!("help {long}{ENTER}"));
    dam.wait_for("cannot be typed");
    // Pasted: it is taken as it is.
    dam.paste(&format!("help {long}"));
    dam.send(ENTER);
    dam.line("help loss");
    dam.wait_for("every term of the objective");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(history(home.path()).len() < 1000);
}

#[test]
fn what_is_not_utf_8_is_refused() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.send(b"help \xff\xfe; help quit\r");
    dam.wait_for("is not UTF-8");
    std::thread::sleep(Duration::from_millis(200));
    dam.send(ctrl('c'));
    dam.line("help loss");
    let screen = dam.wait_for("every term of the objective");
    assert!(!screen.contains("Ctrl-D does too"), "{screen}");
}

/// Without colours there is no code that sets any; a plain terminal gets no codes at all.
#[test]
fn no_colours_where_they_are_not_wanted() {
    let sets = |rest: &&str| rest.trim_start_matches(|c: char| c == ';' || c.is_ascii_digit()).starts_with('m');
    let colours = |bytes: &[u8]| String::from_utf8_lossy(bytes).split("\x1b[").skip(1).filter(sets).count();
    let home = home();
    for (name, value) in [("TERM", "xterm"), ("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut command = dam(home.path());
        command.env(name, value);
        let mut dam = Terminal::start(command, 30, 100);
        dam.wait_for("dam>");
        dam.line("wrap colour=2; help loss");
        dam.wait_for("unknown key `colour`");
        dam.line("help loss");
        dam.wait_for("every term of the objective");
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
fn vi_keys_on_request() {
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
        dam.wait_for("every term of the objective");
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

/// One changes one's mind, twice, and takes the result home as a notebook.
#[test]
fn what_was_done_can_be_undone_and_taken_home() {
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
    // What was baked is not asked for, what the other branch has is.
    dam.wait_for("2 steps of training (bold: 2) are not saved: leave?");
    dam.line("y");
    assert!(dam.end().success());
    let notebook: serde_json::Value = serde_json::from_slice(&std::fs::read(home.path().join("session.ipynb")).unwrap()).unwrap();
    let text = notebook.to_string();
    assert!(text.contains("dam.train(3)?") && !text.contains("1e-1") && !text.contains("train(2)"), "{text}");
}

/// `dam` where a session ended without being left, once it asks whether to go on with it.
fn offered(home: &tempfile::TempDir) -> Terminal {
    let dam = Terminal::start(dam(home.path()), 30, 100);
    dam.wait_for("go on with it?");
    dam
}

/// A killed session is offered again, with the step that was under way; declined, it is offered once more.
#[test]
fn a_killed_session_is_offered_again() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(BEGIN);
    dam.wait_for("step 0 >");
    dam.line("train 100000");
    dam.wait_for(" left");
    // It is kept once a second.
    std::thread::sleep(Duration::from_secs(2));
    dam.kill();
    let mut dam = offered(&home);
    dam.wait_for("training was under way");
    dam.line("n");
    dam.wait_for_prompt("");
    dam.line("quit");
    assert!(dam.end().success());
    let mut dam = offered(&home);
    dam.line("y");
    dam.wait_for("2 sources · step ");
    dam.line("history");
    dam.wait_for("train ");
    dam.line("undo");
    dam.wait_for("step 0 >");
    dam.line("quit");
    assert!(dam.end().success());
    // Left on purpose, it is gone.
    drop(Terminal::dam(home.path()));
}

/// What cannot be read is set aside and never deleted, and its saved states are offered.
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
    let mut dam = Terminal::start(common::terminal::dam(home.path()), 30, 100);
    dam.wait_for("journal.jsonl");
    dam.wait_for("version 99");
    dam.wait_for("set-aside");
    dam.wait_for("can be opened:");
    dam.wait_for_prompt("");
    let aside = home.path().join("state/dam/set-aside").join(session.file_name());
    let states: Vec<_> = std::fs::read_dir(&aside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(states.contains(&"journal.jsonl".into()) && states.iter().any(|name| *name == *"4.dam"), "{states:?}");
    dam.line(&format!("open {}", aside.join("4.dam").display()));
    dam.wait_for_prompt("step 2");
}

/// Of several killed sessions all are listed, and one is chosen or deleted by its number.
#[test]
fn several_killed_sessions_are_listed() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line("load builtin:math");
    dam.wait_for("1 source >");
    dam.kill();
    let mut dam = offered(&home);
    dam.line("n");
    dam.wait_for_prompt("");
    dam.line("load builtin:japanese builtin:sql");
    dam.wait_for("2 sources >");
    dam.kill();
    let mut dam = Terminal::start(common::terminal::dam(home.path()), 30, 100);
    dam.wait_for("2 sessions ended without being left:");
    dam.wait_for("1  just now: 1 change: load builtin:japanese");
    dam.wait_for("2  ");
    dam.line("3");
    dam.line("d1");
    dam.wait_for("go on with it?");
    dam.wait_for("1 change: load builtin:math");
    dam.line("y");
    dam.wait_for("1 source >");
}

/// A line of the history that would fail is no hint.
#[test]
fn what_failed_is_not_hinted_at() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line("help step");
    dam.wait_for("example: step 5");
    dam.line("helq me");
    dam.wait_for("unknown verb");
    dam.send("hel");
    dam.wait_for_prompt("> help step");
}

/// While it trains, bar and curve are there, in place; afterwards only the report.
#[test]
fn training_is_seen_as_it_goes() {
    let home = home();
    let mut dam = Terminal::dam(home.path());
    dam.line(BEGIN);
    dam.wait_for("step 0 >");
    dam.line("train 100000");
    dam.wait_for("a second");
    dam.wait_for("loss, ");
    assert_eq!(dam.screen().matches("loss before each step").count(), 1, "{}", dam.screen());
    dam.send(ctrl('c'));
    dam.wait_for("stopped");
    dam.wait_for("· loss");
    assert!(!dam.screen().contains("a second") && !dam.screen().contains("loss before"), "{}", dam.screen());
}

/// Rust goes on with the merge, Ctrl-C stops what runs there, and what it became comes back.
#[test]
#[cfg(feature = "jupyter")]
fn rust_goes_on_with_the_session() {
    common::jupyter::prepare();
    let home = home();
    let mut command = dam(home.path());
    command.env("XDG_CACHE_HOME", common::jupyter::cache());
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        let own = std::env::home_dir().unwrap().join(if name == "CARGO_HOME" { ".cargo" } else { ".rustup" });
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
    dam.wait_for("as Rust made it");
    dam.line("undo");
    dam.wait_for("step 2 ·");
    dam.line("redo; set lr");
    dam.wait_for("lr=0.01");
    dam.line("quit");
    dam.wait_for("not saved");
    dam.line("y");
    assert!(dam.end().success());
}

/// Before anything is wrapped Rust has the sources with their data and settings, and what is wrapped there keeps them.
#[test]
#[cfg(feature = "jupyter")]
fn rust_before_wrap_keeps_data_and_settings() {
    common::jupyter::prepare();
    let home = home();
    std::fs::write(home.path().join("own.jsonl"), "{\"text\": \"seven\"}\n{\"text\": \"eight\"}\n").unwrap();
    let mut command = dam(home.path());
    command.env("XDG_CACHE_HOME", common::jupyter::cache()).env_remove("RUST_BACKTRACE");
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        let own = std::env::home_dir().unwrap().join(if name == "CARGO_HOME" { ".cargo" } else { ".rustup" });
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
    dam.wait_for("as Rust made it");
    dam.line("set lr batch_size");
    dam.wait_for("lr=0.02");
    dam.line("quit");
    assert!(dam.end().success());
}

/// Pictures are images where a terminal says that it draws them, each in its protocol.
#[test]
fn pictures_are_images_where_they_can_be() {
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
        dam.wait_for("Ctrl-D does too");
        dam.line("quit");
        assert!(dam.end().success());
    };
    drawn("iterm", &[], "\x1b]1337;File=");
    // A terminal that is not known is asked, by us and then by who draws.
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
    // Where it does not draw them after all, or does not answer, it is text.
    for answers in [[("\x1b[c", "\x1b[?62c")], [("\x1b[c", "")]] {
        drawn("sixel", &answers, "how far");
        drawn("", &answers, "how far");
        drawn("kitty", &answers, "how far");
    }
}

/// What is longer than the screen goes through the pager, and what to type first comes first.
#[test]
fn help_is_paged() {
    let home = home();
    let mut command = dam(home.path());
    command.env("PAGER", "head -n 3; echo paged");
    let mut dam = Terminal::start(command, 30, 100);
    dam.wait_for("dam>");
    dam.line("help");
    let screen = dam.wait_for("paged");
    assert!(screen.contains("To begin, type:") && !screen.contains("optimiser step"), "{screen}");
    dam.wait_for_prompt("");
    // What fits is not, and where there is no pager it is written as it is.
    dam.line("help quit");
    dam.wait_for("leave; Ctrl-D does too");
    dam.line("quit");
    assert!(dam.end().success());
    let mut command = common::terminal::dam(home.path());
    command.env("PAGER", "no-such-pager");
    let mut dam = Terminal::start(command, 30, 100);
    dam.wait_for("dam>");
    dam.line("help");
    dam.wait_for("going back, and branches");
    dam.line("quit");
    assert!(dam.end().success());
}
