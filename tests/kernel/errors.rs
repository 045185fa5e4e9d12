//! Errors of cells, with their places.

use crate::common::jupyter::CellResult;
use crate::{own, shared};

#[test]
fn errors_have_status_error_and_the_message_first() {
    let mut kernel = shared();
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

/// Lines and columns count characters, also in a cell with Japanese text.
#[test]
fn errors_have_their_line_and_column_in_the_cell() {
    let (mut kernel, _directory) = own();
    let plain = |cell: &CellResult| {
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
    let mut kernel = shared();
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
