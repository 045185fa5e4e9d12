//! Crates that cells add.

use std::time::{Duration, Instant};

use crate::{MERGE, own};

#[test]
fn adding_a_crate_keeps_the_variables() {
    let (mut kernel, directory) = own();
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
