//! The Jupyter kernel, through Jupyter's protocol.
#![cfg(unix)]

mod common;

use std::time::{Duration, Instant};

use common::jupyter::Kernel;

fn kernel() -> (Kernel, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Kernel::start(directory.path()), directory)
}

const MERGE: &str = "let dam = load([\"builtin:japanese\", \"builtin:math\"])?.wrap(Columns::default())?;";

/// The processes that descend from `process`.
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
    let state = std::process::Command::new("ps").args(["-o", "stat=", "-p", &process.to_string()]).output().unwrap();
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
fn errors_are_errors_with_the_message_first() {
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
    assert!(!cell.text("error").contains("stack backtrace"), "{cell:?}");
    assert_eq!(kernel.run("kept").text("shown"), "7");

    let cell = kernel.run("kept.no_such_method()");
    assert_eq!(cell.status, "error");
    assert!(cell.text("error").contains("no_such_method") && cell.text("error").contains("E0599"), "{cell:?}");

    // What was sent together with a cell that failed is not run.
    let (first, second) = (kernel.send("load([\"nowhere\"])?;"), kernel.send("println!(\"ran\")"));
    kernel.outputs(&first, |_, _| {});
    assert_eq!(kernel.reply()["status"], "error");
    assert_eq!(kernel.reply()["status"], "aborted");
    let _ = second;
    assert_eq!(kernel.run("println!(\"goes on\")").text("stdout"), "goes on\n");
}

#[test]
fn a_client_that_goes_away_takes_no_replies_with_it() {
    let (mut kernel, _directory) = kernel();
    kernel.send_and_go("std::thread::sleep(std::time::Duration::from_secs(1)); let kept = 7;");
    assert_eq!(kernel.run("kept").text("shown"), "7");
}

#[test]
fn replies_go_to_who_asked_where_two_clients_have_one_name() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run_as_twin("let kept = 7;"), "ok");
    assert_eq!(kernel.run("kept").text("shown"), "7");
}

#[test]
fn a_cell_may_ask_for_a_line() {
    let (mut kernel, _directory) = kernel();
    let code = "println!(\"EVCXR_INPUT_REQUEST:who? \");\nlet mut line = String::new();\nstd::io::stdin().read_line(&mut line)?;\n\
                println!(\"it is {}\", line.trim());";
    assert_eq!(kernel.run_and_answer(code, "me"), ("who? ".into(), "it is me\n".into()));
}

#[test]
fn an_interrupt_stops_after_a_step_and_keeps_everything() {
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
fn a_live_picture_changes_in_place_a_few_times_a_second() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let cell = kernel.run("let report = dam.train(60)?;");
    let shown: Vec<_> = cell.outputs.iter().filter(|output| output["output_type"] == "display_data").collect();
    assert_eq!(shown.len(), 1, "{cell:?}");
    assert!(shown[0]["data"]["text/html"].as_str().unwrap().contains("<svg"), "{shown:?}");
    assert!(shown[0]["data"]["text/plain"].as_str().unwrap().contains("60/60"), "{shown:?}");
    assert!(cell.updates.len() >= 2, "{} updates in {} s", cell.updates.len(), cell.seconds);
    assert!((cell.updates.len() as f64) < 5.0 * cell.seconds + 2.0, "{} updates in {} s", cell.updates.len(), cell.seconds);
    assert!(shown[0]["data"]["text/html"].as_str().unwrap().len() < 200_000);
}

#[test]
fn a_second_interrupt_ends_the_process_and_says_so() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run("let lost = 7;").status, "ok");
    let mut count = 0;
    let cell =
        kernel.run_while("println!(\"on\"); loop { std::thread::sleep(std::time::Duration::from_millis(50)); }", |kernel, _| {
            count += 1;
            if count <= 2 {
                kernel.interrupt();
            }
        });
    assert_eq!(cell.status, "error");
    assert!(cell.text("error").contains("second interrupt ended"), "{cell:?}");
    assert!(cell.text("error").contains("variables are lost"), "{cell:?}");
    assert_eq!(kernel.run("lost").status, "error");
    let cell = kernel.run("load([\"builtin:math\", \"builtin:sql\"])?");
    assert_eq!(cell.status, "ok", "{cell:?}");
    assert_eq!(kernel.run("%load builtin:math builtin:sql").status, "ok");
}

#[test]
fn verbs_run_without_compiling_on_the_same_session() {
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
    // A merge made in a cell is what verbs go on with.
    assert_eq!(kernel.run(MERGE).status, "ok");
    assert!(kernel.run("%step").text("shown").contains('1'));
    assert_eq!(kernel.run("dam.steps()").text("shown"), "1");
    assert!(kernel.run("%help").text("shown").contains("train"));
}

#[test]
fn what_is_shown_comes_in_order_and_each_thing_for_itself() {
    let (mut kernel, _directory) = kernel();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let cell = kernel.run("println!(\"before\"); dam.loss()?.evcxr_display(); print!(\"between\"); dam.step()?");
    let kinds: Vec<&str> = cell.outputs.iter().map(|output| output["output_type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["stream", "display_data", "stream", "execute_result"], "{cell:?}");
    assert_eq!(cell.text("stdout"), "before\n\nbetween");
    let result = &cell.outputs[3]["data"];
    assert!(result["text/html"].as_str().unwrap().contains("<table") && result["text/plain"].as_str().is_some(), "{result}");
    let cell = kernel.run("eprintln!(\"a warning\")");
    assert_eq!((cell.status.as_str(), cell.text("stderr").as_str()), ("ok", "a warning\n"));
    assert!(kernel.run(":vars").text("shown").contains("dam"));
}

#[test]
fn it_completes_explains_and_remembers() {
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
fn notebooks_run_side_by_side_and_leave_no_process() {
    let ((mut one, _a), (mut two, _b)) = (kernel(), kernel());
    let (first, second) = (one.send("let x = 1;"), two.send("let x = 2;"));
    one.outputs(&first, |_, _| {});
    two.outputs(&second, |_, _| {});
    assert_eq!((one.reply()["status"].clone(), two.reply()["status"].clone()), ("ok".into(), "ok".into()));
    assert_eq!((one.run("x").text("shown"), two.run("x").text("shown")), ("1".into(), "2".into()));
    let mut processes = descendants(one.id());
    assert!(processes.len() >= 2, "{processes:?}");
    // A kernel that runs a cell is shut down too.
    one.send("loop {}");
    std::thread::sleep(Duration::from_secs(2));
    one.shut_down();
    // One that is killed cannot clean up: its processes end by themselves.
    processes.extend(descendants(two.id()));
    drop(two);
    let begin = Instant::now();
    while processes.iter().any(|process| is_alive(*process)) {
        assert!(begin.elapsed() < Duration::from_secs(20), "still there: {processes:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
