//! Verbs beside Rust, undo, and parameters of papermill.

use std::time::{Duration, Instant};

use crate::{MERGE, shared};

#[test]
fn verbs_and_rust_share_one_session() {
    let mut kernel = shared();
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
fn undo_reverts_changes_of_cells_but_not_the_first_merge() {
    let mut kernel = shared();
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
    let mut kernel = shared();
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
}
