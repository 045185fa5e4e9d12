//! One interrupt keeps what is done; a second one kills.

use crate::{MERGE, shared};

#[test]
fn an_interrupt_stops_training_after_a_step_and_keeps_the_result() {
    let mut kernel = shared();
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
fn a_second_interrupt_kills_the_process_and_reports_it() {
    let mut kernel = shared();
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
