//! Tests of the Jupyter kernel through Jupyter's protocol.
#![cfg(unix)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::jupyter::Kernel;
use jupyter_protocol::messaging::{
    CommInfoRequest, InterruptRequest, KernelInfoRequest, ShutdownRequest, UnknownMessage,
};

fn kernel() -> (Kernel, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Kernel::start(directory.path()), directory)
}

const MERGE: &str =
    "let dam = load([\"builtin:japanese\", \"builtin:math\"])?.wrap(Columns::default())?;";

/// The descendants of `process`.
fn descendants(process: u32) -> Vec<u32> {
    let all = std::process::Command::new("ps").args(["-eo", "pid=,ppid="]).output().unwrap();
    let all = String::from_utf8(all.stdout).unwrap();
    let pairs: Vec<(u32, u32)> = (all.lines())
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .collect();
    let mut found = vec![process];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(pairs.iter().filter(|(_, p)| *p == parent).map(|(child, _)| *child));
        next += 1;
    }
    found.split_off(1)
}

fn is_alive(process: u32) -> bool {
    let state = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", &process.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8(state.stdout).unwrap();
    !state.trim().is_empty() && !state.starts_with('Z')
}

#[test]
fn cells_share_one_candle() {
    let (mut kernel, _directory) = kernel();
    let cells = [
        "use dam_prelude::candle_core::{Device, Tensor, Var};",
        "let x = Var::new(&[2f32, 3.], &Device::Cpu)?;",
        "let y = (x.as_tensor() * x.as_tensor())?.sum_all()?;",
    ];
    for code in cells {
        let cell = kernel.run(code);
        assert_eq!(cell.status, "ok", "{code}: {cell:?}");
    }
    let cell = kernel.run("y.backward()?.get(&x).unwrap().to_vec1::<f32>()?");
    assert_eq!(cell.text("shown"), "[4.0, 6.0]", "{cell:?}");
}

#[test]
fn errors_have_status_error_and_the_message_first() {
    let (mut kernel, _directory) = kernel();
    let cell = kernel.run("let models = load([\"builtin:mth\"])?;");
    assert_eq!(cell.status, "error");
    let error = cell.outputs.last().unwrap();
    assert!(error["evalue"].as_str().unwrap().contains("`mth`"), "{error}");
    assert!(error["traceback"][1].as_str().unwrap().starts_with("hint: "), "{error}");
    assert_eq!(cell.text("stderr"), "");

    let cell = kernel.run("let kept = 7; ");
    assert_eq!(cell.status, "ok");
    let cell = kernel.run("let none: Option<i32> = None; none.unwrap()");
    assert_eq!(cell.status, "error");
    assert_eq!(cell.outputs.last().unwrap()["ename"], "panic", "{cell:?}");
    // The message comes first, then the position in the cell.
    let lines = cell.outputs.last().unwrap()["traceback"].clone();
    assert!(
        lines[0].as_str().unwrap().contains("called `Option::unwrap()` on a `None` value"),
        "{cell:?}"
    );
    assert!(
        lines[1].as_str().unwrap().contains("cell:1:36") && lines.as_array().unwrap().len() == 2,
        "{cell:?}"
    );
    assert_eq!(cell.text("stderr"), "");
    assert_eq!(kernel.run("kept").text("shown"), "7");

    let cell = kernel.run("kept.no_such_method()");
    assert_eq!(cell.status, "error");
    assert!(
        cell.text("error").contains("no_such_method") && cell.text("error").contains("E0599"),
        "{cell:?}"
    );

    // Cells queued behind one that fails are aborted.
    let (first, second) = (kernel.send("load([\"nowhere\"])?;"), kernel.send("println!(\"ran\")"));
    kernel.outputs(&first, |_, _| {});
    assert_eq!(kernel.reply()["status"], "error");
    let aborted = kernel.reply();
    assert_eq!(aborted["status"], "aborted");
    // An aborted reply has no execution count, which this client reads as 0.
    assert_eq!(aborted["execution_count"], 0);
    let _ = second;
    assert_eq!(kernel.run("println!(\"next\")").text("stdout"), "next\n");
}

#[test]
fn a_client_that_disconnects_does_not_affect_the_replies_of_others() {
    let (mut kernel, _directory) = kernel();
    kernel.send_and_disconnect(
        "std::thread::sleep(std::time::Duration::from_secs(1)); let kept = 7;",
    );
    let cell = kernel.run("kept");
    assert_eq!(cell.text("shown"), "7", "{cell:?}");
}

#[test]
fn replies_reach_the_sender_when_two_clients_share_an_identity() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run_with_shared_identity("let kept = 7;"), "ok");
    assert_eq!(kernel.run("kept").text("shown"), "7");
}

#[test]
fn a_cell_can_request_a_line_of_input() {
    let (mut kernel, _directory) = kernel();
    let code = "println!(\"EVCXR_INPUT_REQUEST:who? \");\nlet mut line = String::new();\nstd::io::stdin().read_line(&mut line)?;\n\
                println!(\"it is {}\", line.trim());";
    assert_eq!(kernel.run_and_answer(code, "me"), ("who? ".into(), "it is me\n".into()));
}

#[test]
fn an_interrupt_stops_training_after_a_step_and_keeps_the_result() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let mut interrupted = false;
    let cell = kernel.run_while("dam.train(1_000_000)?", |kernel, cell| {
        if cell.updates.len() == 3 && !interrupted {
            interrupted = true;
            kernel.interrupt();
        }
    });
    assert_eq!(cell.status, "ok", "{cell:?}");
    assert!(cell.text("shown").contains("stopped after step"), "{cell:?}");
    let steps: usize = kernel.run("dam.steps()").text("shown").parse().unwrap();
    assert!(steps > 3 && steps < 1_000_000);
    assert_eq!(kernel.run("dam.train(2)?.steps").text("shown"), "2");
}

#[test]
fn a_live_display_updates_in_place_a_few_times_per_second() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let cell = kernel.run("let report = dam.train(60)?;");
    let shown: Vec<_> =
        cell.outputs.iter().filter(|output| output["output_type"] == "display_data").collect();
    assert_eq!(shown.len(), 1, "{cell:?}");
    assert!(
        shown[0]["data"]["text/html"].as_str().unwrap().contains("<img src=\"data:image/svg+xml"),
        "{shown:?}"
    );
    assert!(shown[0]["data"]["text/plain"].as_str().unwrap().contains("60/60"), "{shown:?}");
    assert!(cell.updates.len() >= 2, "{} updates in {} s", cell.updates.len(), cell.seconds);
    assert!(
        (cell.updates.len() as f64) < 5.0 * cell.seconds + 2.0,
        "{} updates in {} s",
        cell.updates.len(),
        cell.seconds
    );
    assert!(shown[0]["data"]["text/html"].as_str().unwrap().len() < 200_000);
}

#[test]
fn a_second_interrupt_kills_the_process_and_reports_it() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run("let lost = 7;").status, "ok");
    let mut count = 0;
    let code =
        "println!(\"on\"); loop { std::thread::sleep(std::time::Duration::from_millis(50)); }";
    let cell = kernel.run_while(code, |kernel, cell| {
        // Once when the cell runs, and again after the first interrupt.
        if cell.text("stdout").contains("on") && count < 2 {
            count += 1;
            kernel.interrupt();
        }
    });
    assert_eq!(cell.status, "error");
    assert!(cell.text("error").contains("second interrupt killed"), "{cell:?}");
    assert!(cell.text("error").contains("variables are lost"), "{cell:?}");
    assert_eq!(kernel.run("lost").status, "error");
    let cell = kernel.run("load([\"builtin:math\", \"builtin:sql\"])?");
    assert_eq!(cell.status, "ok", "{cell:?}");
    assert_eq!(kernel.run("%load builtin:math builtin:sql").status, "ok");
}

#[test]
fn verbs_and_rust_share_one_session() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run("%load builtin:japanese builtin:math\n%wrap").status, "ok");
    let cell = kernel.run("%step 3");
    assert_eq!(cell.status, "ok", "{cell:?}");
    assert!(cell.text("shown").contains("gradient norm"), "{cell:?}");
    assert_eq!(kernel.run("let dam = latest()?; dam.steps()").text("shown"), "3");
    assert_eq!(kernel.run("dam.step()?.step").text("shown"), "4");
    let begin = Instant::now();
    let cell = kernel.run("%step");
    assert!(cell.text("shown").contains('5'), "{cell:?}");
    assert!(begin.elapsed() < Duration::from_secs(20));
    let cell = kernel.run("%stpe 3");
    assert_eq!(cell.status, "error");
    assert!(cell.text("error").contains("did you mean `step`?"), "{cell:?}");
    // Verbs continue with the merge made last in a cell.
    assert_eq!(kernel.run(MERGE).status, "ok");
    assert!(kernel.run("%step").text("shown").contains('1'));
    assert_eq!(kernel.run("dam.steps()").text("shown"), "1");
    assert!(kernel.run("%help").text("shown").contains("train"));
}

#[test]
fn outputs_arrive_in_order_and_separately() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let cell = kernel
        .run("println!(\"before\"); dam.loss()?.evcxr_display(); print!(\"between\"); dam.step()?");
    let kinds: Vec<&str> =
        cell.outputs.iter().map(|output| output["output_type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["stream", "display_data", "stream", "execute_result"], "{cell:?}");
    assert_eq!(cell.text("stdout"), "before\n\nbetween");
    let result = &cell.outputs[3]["data"];
    assert!(
        result["text/html"].as_str().unwrap().contains("<table")
            && result["text/plain"].as_str().is_some(),
        "{result}"
    );
    let cell = kernel.run("eprintln!(\"a warning\")");
    assert_eq!((cell.status.as_str(), cell.text("stderr").as_str()), ("ok", "a warning\n"));
    assert!(kernel.run(":vars").text("shown").contains("dam"));
}

/// Lines and columns count characters, also in a cell with Japanese text.
#[test]
fn errors_have_their_line_and_column_in_the_cell() {
    let (mut kernel, _directory) = kernel();
    let plain = |cell: &common::jupyter::CellResult| {
        let lines = cell.outputs.last().unwrap()["traceback"].clone();
        let text = lines
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n");
        console::strip_ansi_codes(&text).into_owned()
    };
    let cell = kernel.run("// 十二足す七\nlet 挨拶 = \"こんにちは\"; 挨拶.nothing();");
    assert!(
        plain(&cell).contains("cell:2:22") && plain(&cell).contains("E0599"),
        "{}",
        plain(&cell)
    );
    assert!(
        plain(&cell).contains("let 挨拶 = \"こんにちは\"; 挨拶.nothing();"),
        "{}",
        plain(&cell)
    );
    // After a line of verbs, and in the value of the cell.
    let cell = kernel.run("%help\n\n1 + \"七\"");
    assert!(plain(&cell).contains("cell:3:3"), "{}", plain(&cell));
    let cell = kernel.run("fn at(i: usize) -> i32 {\n    let 数 = vec![1];\n    数[i]\n}\nat(0)");
    assert_eq!(cell.text("shown"), "1");
    let cell = kernel.run("let a = 1;\nat(7)");
    assert!(
        plain(&cell).contains("cell [3]:3:6")
            && plain(&cell).contains("the len is 1 but the index is 7"),
        "{}",
        plain(&cell)
    );
    let cell = kernel.run("let 文 = \"十二\";\nassert_eq!(文.len(), 7); 文");
    assert!(
        plain(&cell).contains("cell:2:1") && plain(&cell).contains("left: 6"),
        "{}",
        plain(&cell)
    );
}

#[test]
fn a_panic_has_a_backtrace_if_requested() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run("unsafe { std::env::set_var(\"RUST_BACKTRACE\", \"1\") };").status, "ok");
    let cell = kernel.run("let v = vec![1]; v[7]");
    let error = cell.outputs.last().unwrap();
    assert!(error["traceback"][0].as_str().unwrap().contains("the index is 7"), "{cell:?}");
    assert!(error["traceback"][2].as_str().unwrap().contains("run_user_code"), "{cell:?}");
    // A panic in another thread is reported and does not end the cell.
    let cell = kernel.run(
        "let thread = std::thread::Builder::new().name(\"other\".into()).spawn(|| panic!(\"boom\"))?; thread.join().is_err()",
    );
    assert_eq!((cell.status.as_str(), cell.text("shown").as_str()), ("ok", "true"), "{cell:?}");
    assert!(cell.text("stderr").contains("thread `other` panicked: boom"), "{cell:?}");
}

#[test]
fn the_last_expression_is_shown_in_its_own_format() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    // A variable moved into a figure.
    assert_eq!(
        kernel.run("use dam_prelude::show::{Figure, Series}; let points = Series::new(\"a\", [(1.0, 2.0), (2.0, 1.0)]);").status,
        "ok"
    );
    let cell = kernel.run("Figure::curve(\"loss\", \"step\", \"nats\", vec![points])");
    assert!(
        cell.outputs.last().unwrap()["data"]["text/html"]
            .as_str()
            .unwrap_or_default()
            .contains("<img src"),
        "{cell:?}"
    );
    let cell = kernel
        .run("let x = Tensor::new(&[[1f32, 2.5]], &dam_prelude::candle_core::Device::Cpu)?; x");
    assert!(cell.text("shown").contains("[[1.0000, 2.5000]]"), "{cell:?}");
    // A `Result` without `?` shows its value, or its error and hint.
    let cell = kernel.run("dam.loss()");
    assert!(
        cell.outputs[0]["data"]["text/html"].as_str().unwrap_or_default().contains("<table"),
        "{cell:?}"
    );
    let cell = kernel.run("load([\"builtin:mth\"])");
    assert!(
        cell.status == "ok"
            && cell.text("shown").contains("`mth`")
            && cell.text("shown").contains("hint: "),
        "{cell:?}"
    );
    // A value that cannot be shown is an error that says why.
    let cell = kernel.run("struct Silent; Silent");
    assert!(cell.status == "error" && cell.text("error").contains("Debug"), "{cell:?}");
    for (code, shown) in [
        ("panic!(\"七\")", ""),
        ("for i in 0..2 { println!(\"{i}\"); }", ""),
        ("[1, 2]", "[1, 2]"),
        ("\"a\"", "\"a\""),
    ] {
        assert_eq!(kernel.run(code).text("shown"), shown, "{code}");
    }
    let cell = kernel.run(":vars");
    let html = cell.outputs[0]["data"]["text/html"].as_str().unwrap().to_owned();
    assert!(
        html.contains("<table")
            && html.contains("dam")
            && html.contains("Tensor")
            && !html.contains("<td></td>"),
        "{html}"
    );
    // In evcxr's format, if the user has set one.
    assert!(kernel.run(":fmt {:#?}\n[1]").text("shown").contains("[\n    1,\n]"));
}

#[test]
fn completion_lists_members_of_the_type_first() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let words = kernel.complete("dam.");
    for word in [
        "into()",
        "try_into()",
        "borrow()",
        "to_owned()",
        "type_id()",
        "session()",
        "free_caches()",
        "0",
        "with_weights(",
    ] {
        assert!(!words.contains(&word.to_owned()), "{word}: {words:?}");
    }
    let at = |name: &str| words.iter().position(|word| word.trim_end_matches(['(', ')']) == name);
    for own in ["train", "loss", "step", "inspect", "bake"] {
        assert!(
            at(own).unwrap_or_else(|| panic!("{own}: {words:?}"))
                < at("clone").unwrap_or(usize::MAX),
            "{own}: {words:?}"
        );
    }
    let begin = Instant::now();
    kernel.complete("dam.");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // Between the arguments of a call, and after a line of verbs.
    assert!(kernel.inspect("%step\ndam.train(1").contains("optimiser steps"));
}

#[test]
fn adding_a_crate_keeps_the_variables() {
    let (mut kernel, directory) = kernel();
    let dice = directory.path().join("dice");
    let write = |code: &str| {
        std::fs::create_dir_all(dice.join("src")).unwrap();
        std::fs::write(
            dice.join("Cargo.toml"),
            "[package]\nname = \"dice\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
        )
        .unwrap();
        std::fs::write(dice.join("src/lib.rs"), code).unwrap();
    };
    let add = format!(":dep dice = {{ path = {dice:?} }}");
    assert_eq!(kernel.run(&format!("{MERGE} dam.train(2)?;")).status, "ok");
    // A crate that does not compile is reported with its error and changes nothing.
    write("pub fn roll() -> usize { nowhere }");
    let cell = kernel.run(&format!("{add}\ndice::roll()"));
    assert!(
        cell.status == "error"
            && cell.text("error").contains("nowhere")
            && cell.text("error").contains("E0425"),
        "{cell:?}"
    );
    let cell = kernel.run(":dep nowhere = { path = \"/nowhere\" }");
    assert!(cell.status == "error" && cell.text("error").contains("/nowhere"), "{cell:?}");
    assert_eq!(kernel.run("dam.steps()").text("shown"), "2");
    // A dependency that would change the build of the prelude is built separately.
    let cell = kernel.run(":dep serde = { version = \"1\", features = [\"rc\"] }\nfn is<T: serde::Serialize>(_: &T) -> bool { true }\nis(&std::rc::Rc::new(7))");
    assert!(cell.status == "ok" && cell.text("shown").ends_with("true"), "{cell:?}");
    assert_eq!(kernel.run("(is(&std::rc::Rc::new(7)), dam.steps())").text("shown"), "(true, 2)");
    // But a dependency that shares the prelude's tensors cannot be.
    let cell = kernel.run(":dep candle-core = { version = \"0.11\", features = [\"cudnn\"] }");
    assert!(cell.status == "error" && cell.text("error").contains("candle-core"), "{cell:?}");
    write("pub fn roll() -> usize { 4 }");
    let begin = Instant::now();
    let cell = kernel.run(&format!("{add}\ndice::roll() + dam.steps()"));
    assert!(cell.text("shown").ends_with('6'), "{cell:?}");
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "only this crate was built: {:?}",
        begin.elapsed()
    );
    assert_eq!(kernel.run("dam.train(dice::roll())?.steps").text("shown"), "4");
    // evcxr adds tokio for a cell with `await`.
    let cell = kernel.run("async fn two() -> usize { 2 }\ntwo().await + dam.steps()");
    assert!(cell.text("shown").ends_with('8'), "{cell:?}");
    // A variable of unknown type is reported at once, without another build for a check.
    let begin = Instant::now();
    let cell = kernel.run("let unknown = Default::default();");
    assert!(cell.status == "error" && begin.elapsed() < Duration::from_secs(60), "{cell:?}");
}

#[test]
fn a_cell_that_reads_gets_a_line_or_end_of_file() {
    let (mut kernel, _directory) = kernel();
    let read = "print!(\"who? \"); let mut line = String::new();\nlet n = std::io::stdin().read_line(&mut line)?;\nprintln!(\"{n} {}\", line.trim());";
    // Without a front end that allows input.
    let cell = kernel.run(read);
    assert_eq!(
        (cell.status.as_str(), cell.text("stdout").as_str()),
        ("ok", "who? 0 \n"),
        "{cell:?}"
    );
    let (question, written) = kernel.run_and_answer(read, "十二");
    assert_eq!((question.is_empty(), written.as_str()), (false, "who? 7 十二\n"));
    // A reply that arrives after the interrupt is not given to the next cell.
    let (first, second) = kernel.run_and_answer_late(read, read);
    assert!(first.ends_with("0 \n") && second == "who? 4 own\n", "{first:?} {second:?}");
    assert_eq!(kernel.run("1 + 1").text("shown"), "2");
}

#[test]
fn large_output_arrives_complete_in_few_messages() {
    let (mut kernel, _directory) = kernel();
    let mut count = 0;
    let cell = kernel.run_while("for i in 0..200_000 { println!(\"{i}\"); } 7", |_, _| count += 1);
    let expected: String = (0..200_000).map(|i| format!("{i}\n")).collect();
    assert!(
        cell.text("stdout") == expected && cell.text("shown") == "7",
        "{} bytes",
        cell.text("stdout").len()
    );
    assert!(
        f64::from(count) < 100.0 + 20.0 * cell.seconds,
        "{count} messages in {} s",
        cell.seconds
    );
}

/// The socket types of clients, one per kernel socket.
const KINDS: [&str; 5] = ["DEALER", "SUB", "DEALER", "DEALER", "REQ"];

/// A connection without the key that has sent only the greeting.
fn greeting_only(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut greeting = [0u8; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting).unwrap();
    stream
}

/// The same after the complete handshake.
fn unauthenticated(port: u16, kind: &str) -> TcpStream {
    let mut stream = greeting_only(port);
    let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
    ready.extend((kind.len() as u32).to_be_bytes());
    ready.extend(kind.as_bytes());
    stream.write_all(&[&[4, ready.len() as u8][..], &ready].concat()).unwrap();
    stream
}

/// Waits until the kernel disconnects, which it does at once.
fn assert_disconnects(mut stream: TcpStream, what: &str) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let end = stream.read_to_end(&mut Vec::new());
    let reset = end
        .as_ref()
        .is_err_and(|e| [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&e.kind()));
    assert!(end.is_ok() || reset, "{what}: {end:?}");
}

#[test]
fn an_impossible_length_closes_only_its_connection() {
    let (mut kernel, _directory) = kernel();
    for (port, kind) in kernel.ports().into_iter().zip(KINDS) {
        // A message before and after the handshake, and a command instead of it.
        for (mut stream, first) in
            [(greeting_only(port), 2u8), (unauthenticated(port, kind), 2), (greeting_only(port), 6)]
        {
            stream.write_all(&[&[first][..], &(1u64 << 62).to_be_bytes()].concat()).unwrap();
            assert_disconnects(stream, &format!("{kind}, {first}"));
        }
    }
    assert_eq!(kernel.run("1 + 1").text("shown"), "2");
}

#[test]
fn a_client_with_too_many_subscriptions_is_disconnected() {
    let (mut kernel, _directory) = kernel();
    let mut stream = unauthenticated(kernel.ports()[1], "SUB");
    for i in 0..10_000u32 {
        let topic = i.to_be_bytes();
        // The kernel may have disconnected already.
        if stream.write_all(&[&[0, 5, 1][..], &topic].concat()).is_err() {
            break;
        }
    }
    assert_disconnects(stream, "10,000 subscriptions");
    assert_eq!(kernel.run("1 + 1").text("shown"), "2");
    assert_eq!(kernel.run_with_shared_identity("1 + 1"), "ok");
}

#[test]
fn idle_connections_do_not_block_other_clients() {
    let (mut kernel, _directory) = kernel();
    // Shell, iopub and control, which a client needs: more connections to each than the limit.
    let [shell, iopub, _, control, _] = kernel.ports();
    let idle: Vec<TcpStream> = (0..140)
        .flat_map(|_| {
            [(shell, "DEALER"), (iopub, "SUB"), (control, "DEALER")]
                .map(|(port, kind)| unauthenticated(port, kind))
        })
        .collect();
    assert_eq!(kernel.run_with_shared_identity("let kept = 7;"), "ok");
    assert_eq!(kernel.run("kept").text("shown"), "7");
    drop(idle);
}

/// The resident memory of a process, in KiB.
fn memory(process: u32) -> u64 {
    let asked = std::process::Command::new("ps")
        .args(["-o", "rss=", "-p", &process.to_string()])
        .output()
        .unwrap();
    String::from_utf8(asked.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn unauthenticated_messages_do_not_fill_the_memory() {
    const CONNECTIONS: usize = 60;
    let (mut kernel, _directory) = kernel();
    // After this the kernel has allocated what it needs itself.
    assert_eq!(kernel.run("let kept = 7;").status, "ok");
    kernel.complete("kept.");
    let before = memory(kernel.id());
    let large = vec![7u8; 15 << 20];
    let mut connections = Vec::new();
    for i in 0..CONNECTIONS {
        let mut stream = unauthenticated(kernel.ports()[0], "DEALER");
        // Half of them send a complete message without a valid signature; the others never finish.
        let length = large.len() as u64 + (i % 2) as u64;
        let sent = stream.write_all(&[&[2][..], &length.to_be_bytes(), &large].concat());
        connections.push((stream, sent));
    }
    std::thread::sleep(Duration::from_secs(1));
    let grown = memory(kernel.id()).saturating_sub(before) >> 10;
    assert!(grown < 400, "{grown} MB for {} MB", CONNECTIONS * 15);
    // A large cell of an authenticated client still arrives.
    let cell = kernel.run(&format!("kept // {}", "x".repeat(4 << 20)));
    assert_eq!(cell.text("shown"), "7");
}

#[test]
fn every_request_is_bracketed_by_busy_and_idle() {
    let (mut kernel, _directory) = kernel();
    let unknown =
        || UnknownMessage { msg_type: "nothing_request".into(), content: serde_json::json!({}) };
    assert_eq!(kernel.request(KernelInfoRequest {})["implementation"], "dam");
    assert_eq!(kernel.request(CommInfoRequest { target_name: None })["status"], "ok");
    assert_eq!(kernel.request(unknown())["status"], "error");
    assert_eq!(kernel.control_request(KernelInfoRequest {})["implementation"], "dam");
    assert_eq!(kernel.control_request(InterruptRequest {})["status"], "ok");
    assert_eq!(kernel.control_request(unknown())["status"], "error");
    // Also while a cell runs.
    let cell = kernel.send("std::thread::sleep(std::time::Duration::from_secs(2));");
    assert_eq!(kernel.control_request(InterruptRequest {})["status"], "ok");
    kernel.outputs(&cell, |_, _| {});
    kernel.reply();
    assert_eq!(kernel.control_request(ShutdownRequest { restart: false })["status"], "ok");
}

#[test]
fn the_table_of_variables_is_updated_after_each_cell() {
    let (mut kernel, _directory) = kernel();
    let shown = kernel.run(":vars");
    let html = |data: &serde_json::Value| data["text/html"].as_str().unwrap_or_default().to_owned();
    assert_eq!(shown.outputs.len(), 1, "{shown:?}");
    assert!(html(&shown.outputs[0]["data"]).contains("<table"), "{shown:?}");
    let is_shown = |update: &serde_json::Value, words: &[&str]| {
        assert_eq!(update["transient"]["display_id"], shown.outputs[0]["id"], "{update}");
        let html = html(&update["data"]);
        assert!(words.iter().all(|word| html.contains(word)), "{words:?}: {html}");
    };
    assert_eq!(kernel.run("let x = 1;").status, "ok");
    is_shown(&kernel.update(), &[">x<", ">i32<", ">1<"]);
    assert_eq!(kernel.run("let x = \"seven\"; let other = 2.5;").status, "ok");
    is_shown(&kernel.update(), &[">x<", "seven", ">other<", ">2.5<"]);
    assert_eq!(kernel.run("struct Silent; let silent = &&Silent;").status, "ok");
    is_shown(&kernel.update(), &["seven", ">silent<"]);
    // The update does not affect the output of a cell.
    assert_eq!(kernel.run("other").text("shown"), "2.5");
}

#[test]
fn the_socket_is_private_and_only_child_processes_are_killed() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let directory = tempfile::tempdir().unwrap();
    let mut command = common::jupyter::dam(directory.path());
    // SAFETY: the closure only calls umask, which is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::umask(0);
            Ok(())
        });
    }
    let mut kernel = Kernel::start_as(&mut command);
    let socket = kernel.run("println!(\"{}\", std::env::var(\"DAM_NOTEBOOK\")?);").text("stdout");
    let socket = std::path::Path::new(socket.trim());
    let mode = std::fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{}", socket.display());
    // A process that claims to be the cells' process but is not a descendant is not killed.
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    writeln!(stream, "{{\"hello\": \"cells\", \"pid\": {}}}", other.id()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kernel.shut_down();
    let alive = is_alive(other.id());
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(alive);
}

#[test]
fn undo_reverts_changes_of_cells_but_not_the_first_merge() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    assert_eq!(kernel.run("dam.train(3)?;").status, "ok");
    assert_eq!(kernel.run("dam.train(2)?;").status, "ok");
    assert_eq!(kernel.run("%undo").status, "ok");
    assert_eq!(kernel.run("dam.steps()").text("shown"), "3");
    assert_eq!(kernel.run("%undo").status, "ok");
    assert_eq!(kernel.run("dam.steps()").text("shown"), "0");
    let cell = kernel.run("%undo");
    assert!(
        cell.status == "error" && cell.text("error").contains("a Rust cell created this merge"),
        "{cell:?}"
    );
    assert_eq!(kernel.run("%redo\nlatest()?.steps()").text("shown").lines().last(), Some("3"));
}

#[test]
fn verbs_work_with_prompts_between_rust_and_with_papermill() {
    let (mut kernel, directory) = kernel();
    // With prompts, as in the README.
    let cell = kernel
        .run("dam> load builtin:japanese builtin:math\ndam> wrap\ndam 2 sources · step 0 > step 4");
    assert!(
        cell.status == "ok" && kernel.run("latest()?.steps()").text("shown") == "4",
        "{cell:?}"
    );
    let cell = kernel
        .run(&format!("{MERGE}\n%step 2\nlet steps = dam.steps();\n%step\n(steps, dam.steps())"));
    assert!(cell.status == "ok" && cell.text("shown").ends_with("(2, 3)"), "{cell:?}");
    // Nothing runs after a panic.
    let cell = kernel.run("panic!(\"no\");\n%step");
    let steps = kernel.run("dam.steps()");
    assert!(cell.status == "error" && steps.text("shown") == "3", "{cell:?} {steps:?}");
    // Parameters as papermill inserts them.
    assert_eq!(
        kernel.run("let steps: usize = 1; let name = String::new(); let lr = 0.0f64;").status,
        "ok"
    );
    let cell = kernel.run("# Parameters\nsteps = 2\nname = \"七\"\nlr = 1\nall = [1, 2]\n");
    assert_eq!(cell.status, "ok", "{cell:?}");
    assert_eq!(
        kernel.run("let n: usize = steps; (n, name.as_str(), lr, all.len())").text("shown"),
        "(2, \"七\", 1.0, 2)"
    );
    drop(directory);
}

/// The built prelude is deleted with the last kernel that uses it, but not while one is running.
#[test]
fn uninstalling_a_kernel_keeps_the_others_usable() {
    common::jupyter::prepare();
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    std::fs::create_dir_all(&cache).unwrap();
    // The prelude built once for all tests, without the directories of running kernels.
    let all = std::fs::read_dir(common::jupyter::cache().join("dam"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let built =
        all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("prelude-"));
    std::fs::create_dir(cache.join("dam")).unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-al")
        .args(built)
        .arg(cache.join("dam"))
        .status()
        .unwrap();
    assert!(copied.success());
    let dam = |arguments: &[&str]| {
        let mut command = common::jupyter::dam(directory.path());
        let output =
            command.env("XDG_CACHE_HOME", &cache).arg("jupyter").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let built = || {
        std::fs::read_dir(cache.join("dam"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with("prelude-"))
    };
    dam(&["install", "--prefix", "one"]);
    dam(&["install", "--prefix", "one", "--name", "other"]);
    dam(&["install", "--prefix", "two"]);
    assert!(
        dam(&["uninstall", "--prefix", "one", "--name", "other"]).contains("stays, because")
            && built()
    );
    assert!(
        dam(&["uninstall", "--prefix", "one"]).contains("two/share/jupyter/kernels/dam") && built()
    );
    assert!(dam(&["uninstall", "--prefix", "two"]).contains("removed ") && !built());
}

#[test]
fn completion_documentation_and_history_work() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let words = kernel.complete("dam.tra");
    assert!(words.iter().any(|word| word.starts_with("train")), "{words:?}");
    assert!(kernel.complete("%tr").contains(&"train".to_owned()));
    assert!(kernel.inspect("dam.train").contains("optimiser steps"));
    assert!(kernel.inspect("%train").contains("train N"));
    assert_eq!(kernel.is_complete("for i in 0..3 {"), "incomplete");
    assert_eq!(kernel.is_complete("let a = 1;"), "complete");
    assert_eq!(kernel.is_complete("a)"), "invalid");
    let history = kernel.history();
    assert_eq!(history[0][2], MERGE);
}

#[test]
fn kernels_run_side_by_side_and_leave_no_process() {
    let ((mut one, _a), (mut two, _b)) = (kernel(), kernel());
    let (first, second) = (one.send("let x = 1;"), two.send("let x = 2;"));
    one.outputs(&first, |_, _| {});
    two.outputs(&second, |_, _| {});
    assert_eq!(
        (one.reply()["status"].clone(), two.reply()["status"].clone()),
        ("ok".into(), "ok".into())
    );
    assert_eq!((one.run("x").text("shown"), two.run("x").text("shown")), ("1".into(), "2".into()));
    let mut processes = descendants(one.id());
    assert!(processes.len() >= 2, "{processes:?}");
    // A kernel is shut down while it runs a cell.
    one.send("loop {}");
    std::thread::sleep(Duration::from_secs(2));
    one.shut_down();
    // A killed kernel cannot clean up: its processes end by themselves.
    processes.extend(descendants(two.id()));
    drop(two);
    let begin = Instant::now();
    while processes.iter().any(|process| is_alive(*process)) {
        assert!(begin.elapsed() < Duration::from_secs(20), "still there: {processes:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A named pipe as connection file is refused instead of blocking.
#[test]
fn a_named_pipe_is_refused_as_connection_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("connection.json");
    let name = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    // SAFETY: the path is a NUL-terminated string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let output = common::dam(directory.path()).arg("kernel").arg(&file).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("a pipe"), "{errors}");
}
