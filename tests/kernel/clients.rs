//! Requests and replies: several clients, input, and the states that clients need.

use jupyter_protocol::messaging::{
    CommInfoRequest, InterruptRequest, KernelInfoRequest, ShutdownRequest, UnknownMessage,
};

use crate::{own, shared};

#[test]
fn a_client_that_disconnects_does_not_affect_the_replies_of_others() {
    let mut kernel = shared();
    kernel.send_and_disconnect(
        "std::thread::sleep(std::time::Duration::from_secs(1)); let kept = 7;",
    );
    let cell = kernel.run("kept");
    assert_eq!(cell.text("shown"), "7", "{cell:?}");
}

#[test]
fn replies_reach_the_sender_when_two_clients_share_an_identity() {
    let mut kernel = shared();
    assert_eq!(kernel.run_with_shared_identity("let kept = 7;"), "ok");
    assert_eq!(kernel.run("kept").text("shown"), "7");
}

#[test]
fn a_cell_can_request_a_line_of_input() {
    let mut kernel = shared();
    let code = "println!(\"EVCXR_INPUT_REQUEST:who? \");\nlet mut line = String::new();\nstd::io::stdin().read_line(&mut line)?;\n\
                println!(\"it is {}\", line.trim());";
    assert_eq!(kernel.run_and_answer(code, "me"), ("who? ".into(), "it is me\n".into()));
}

#[test]
fn a_cell_that_reads_gets_a_line_or_end_of_file() {
    let mut kernel = shared();
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
fn every_request_is_bracketed_by_busy_and_idle() {
    let (mut kernel, _directory) = own();
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
