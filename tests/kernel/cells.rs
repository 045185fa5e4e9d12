//! What cells show, and the variables that they share.

use crate::{MERGE, own, shared};

#[test]
fn cells_share_one_candle() {
    let mut kernel = shared();
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
fn outputs_arrive_in_order_and_separately() {
    let mut kernel = shared();
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

#[test]
fn the_last_expression_is_shown_in_its_own_format() {
    let (mut kernel, _directory) = own();
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
fn large_output_arrives_complete_in_few_messages() {
    let mut kernel = shared();
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

#[test]
fn a_live_display_updates_in_place_a_few_times_per_second() {
    let mut kernel = shared();
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
fn the_table_of_variables_is_updated_after_each_cell() {
    let (mut kernel, _directory) = own();
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
fn clearing_keeps_the_prelude_and_nothing_else() {
    let mut kernel = shared();
    assert_eq!(kernel.run(&format!("{MERGE} fn seven() -> i32 {{ 7 }}")).status, "ok");
    let cell = kernel.run(":clear");
    assert!(cell.status == "ok" && cell.text("stderr").is_empty(), "{cell:?}");
    for code in ["dam.steps()", "seven()", "latest()?"] {
        assert_eq!(kernel.run(code).status, "error", "{code}");
    }
    assert_eq!(kernel.run(":vars").status, "ok");
    // Cells and verbs work as at the start, on the same session.
    assert_eq!(kernel.run(MERGE).status, "ok");
    assert!(kernel.run("%step").text("shown").contains('1'));
    assert_eq!(kernel.run("dam.steps()").text("shown"), "1");
}
