//! The course: every notebook runs in the real kernel and reproduces its committed outputs.
//!
//! `DAM_NOTEBOOKS=update cargo test --release --features jupyter --test notebooks` rewrites the
//! outputs. Numbers in cells with the tag `chaotic` are not compared.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};

use common::jupyter::{CellResult, shared};
use common::text::{same_text, without_numbers};
use serde_json::{Value, json};

macro_rules! notebooks {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            run($name);
        })*

        #[test]
        fn every_notebook_is_run() {
            let mut there: Vec<String> = (std::fs::read_dir(directory()).unwrap())
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.ends_with(".ipynb"))
                .collect();
            there.sort();
            assert_eq!(there, [$($name),*]);
        }
    };
}

notebooks! {
    the_first_merge: "01_first_merge.ipynb",
    why_columns: "02_why_columns.ipynb",
    loss_terms: "03_loss_terms.ipynb",
    live: "04_live.ipynb",
    coefficients: "05_coefficients.ipynb",
    methods: "06_methods.ipynb",
    a_scheme: "07_scheme.ipynb",
    real_models: "08_real_models.ipynb",
    solve: "09_solve.ipynb",
    judging: "10_judging.ipynb",
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("notebooks")
}

fn run(name: &str) {
    let file = directory().join(name);
    let mut notebook: Value =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let update = std::env::var("DAM_NOTEBOOKS").is_ok_and(|what| what == "update");
    let mut kernel = shared();
    let mut wrong = Vec::new();
    let mut count = 0;
    for cell in notebook["cells"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .filter(|cell| cell["cell_type"] == "code")
    {
        count += 1;
        let source = text(&cell["source"]);
        // Where training diverges, rounding differences between machines change the numbers.
        let chaotic = cell["metadata"]["tags"]
            .as_array()
            .is_some_and(|tags| tags.contains(&"chaotic".into()));
        let done = kernel.run(&source);
        wrong.extend(faults(&done).map(|fault| format!("{source}\n  {fault}")));
        if update {
            cell["outputs"] = kept(&done, count);
            cell["execution_count"] = count.into();
        } else if let Err(difference) = compare(
            cell["outputs"].as_array().unwrap(),
            kept(&done, count).as_array().unwrap(),
            chaotic,
        ) {
            wrong.push(format!("{source}\n  {difference}"));
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
    assert!(count >= 3, "{name} has {count} cells of code");
    if update {
        let mut text = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b" ");
        serde::Serialize::serialize(
            &notebook,
            &mut serde_json::Serializer::with_formatter(&mut text, indent),
        )
        .unwrap();
        text.push(b'\n');
        std::fs::write(file, text).unwrap();
    }
}

/// A text in a notebook, which is one string or a list of lines.
fn text(value: &Value) -> String {
    match value {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        _ => value.as_str().unwrap_or_default().to_owned(),
    }
}

/// Outputs that must not occur in a notebook.
fn faults(cell: &CellResult) -> impl Iterator<Item = String> {
    let kinds = ["error", "stderr"].map(|kind| (kind, cell.text(kind)));
    kinds
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(kind, text)| format!("{kind}: {text}"))
}

/// The outputs as stored in a notebook, where this is cell `count`.
fn kept(cell: &CellResult, count: usize) -> Value {
    let one = |output: &Value| {
        let mut output = output.clone();
        if let Some(output) = output.as_object_mut() {
            output.remove("id");
            // The kernel may have run cells before this notebook.
            output.entry("execution_count").and_modify(|number| *number = count.into());
        }
        output
    };
    // A wait message that was removed.
    let is_blank = |output: &&Value| {
        output["data"].as_object().is_some_and(|data| data.values().all(|form| form == ""))
    };
    cell.outputs.iter().filter(|output| !is_blank(output)).map(one).collect()
}

/// The start of an image. (Jupyter removes any other kind of image from an untrusted notebook.)
const PICTURE: &str = "<img src=\"data:image/svg+xml;base64,";

/// Compares outputs with those committed: the same types, number of images and words, with numbers
/// to four digits.
fn compare(committed: &[Value], found: &[Value], chaotic: bool) -> Result<(), String> {
    if committed.len() != found.len() {
        // Progress is only shown where a task takes long enough.
        let results = |outputs: &[Value]| -> Vec<Value> {
            let mut results: Vec<Value> = Vec::new();
            for output in outputs.iter().filter(|output| !is_progress(output)) {
                // It may have split what was printed before and after it.
                match results.last_mut() {
                    Some(last) if !last["name"].is_null() && last["name"] == output["name"] => {
                        last["text"] = (text(&last["text"]) + &text(&output["text"])).into();
                    }
                    _ => results.push(output.clone()),
                }
            }
            results
        };
        let (committed, found) = (results(committed), results(found));
        if committed.len() == found.len() {
            return compare(&committed, &found, chaotic);
        }
    }
    let kinds =
        |outputs: &[Value]| outputs.iter().map(|o| o["output_type"].clone()).collect::<Vec<_>>();
    if kinds(committed) != kinds(found) {
        return Err(format!(
            "committed are {}, found {}",
            json!(kinds(committed)),
            json!(kinds(found))
        ));
    }
    for (committed, found) in committed.iter().zip(found) {
        let pictures = |output: &Value| text(&output["data"]["text/html"]).matches(PICTURE).count();
        if pictures(committed) != pictures(found) {
            return Err(format!(
                "{} pictures are committed, {} found",
                pictures(committed),
                pictures(found)
            ));
        }
        let texts = [
            |output: &Value| text(&output["text"]),
            |output: &Value| text(&output["data"]["text/plain"]),
            |output: &Value| lines_of(&text(&output["data"]["text/html"])),
        ];
        for of in texts {
            let of =
                |output: &Value| if chaotic { without_numbers(&of(output)) } else { of(output) };
            same_text(&of(committed), &of(found))?;
        }
    }
    Ok(())
}

/// Whether it is the progress of a task: its name and a bar.
fn is_progress(output: &Value) -> bool {
    let text = text(&output["data"]["text/plain"]);
    let bar = text.split_once(' ').map_or("", |(_, bar)| bar);
    output["output_type"] == "display_data" && bar.starts_with(['━', '─'])
}

/// The width of a table cell, in columns.
const CELL: usize = 64;

/// The text of a page without images, with each table row as a line of right-aligned cells.
fn lines_of(html: &str) -> String {
    let (mut lines, mut rest) = (String::new(), html);
    while let Some((before, (tag, after))) =
        rest.split_once('<').and_then(|(before, tag)| Some((before, tag.split_once('>')?)))
    {
        match tag {
            "/td" | "/th" => lines += &format!("{before:>CELL$} "),
            "/tr" | "/table" | "/caption" | "/p" | "/pre" | "/div" => {
                lines += &format!("{before}\n")
            }
            _ => lines += before,
        }
        if tag == "/table" {
            lines.push('\n');
        }
        rest = after;
    }
    lines + rest
}

#[test]
fn progress_may_be_shown_or_not() {
    let result = json!({"output_type": "execute_result", "data": {"text/plain": "3"}});
    let shown = |text: &str| json!({"output_type": "display_data", "data": {"text/plain": text}});
    let bar = shown("train ━━━━── 2/3");
    for bar in [std::slice::from_ref(&bar), &[]] {
        let with_bar = [bar, std::slice::from_ref(&result)].concat();
        assert_eq!(compare(std::slice::from_ref(&result), &with_bar, false), Ok(()));
        assert_eq!(compare(&with_bar, std::slice::from_ref(&result), false), Ok(()));
        let other = [vec![shown("a picture")], with_bar].concat();
        assert!(compare(std::slice::from_ref(&result), &other, false).is_err());
    }
}

#[test]
fn images_and_measured_columns_are_not_compared() {
    let page = |words: &str, loss: &str, seconds: &str, picture: &str| {
        let table = format!(
            "<table><thead><tr><th style=\"a\">loss</th><th>seconds</th></tr></thead><tbody><tr><td>{loss}</td><td>{seconds}</td></tr></tbody></table>"
        );
        json!([{"output_type": "display_data", "data": {
            "text/plain": "", "text/html": format!("<pre>train 20/20  {seconds} s</pre>{table}<p>{words}</p>{PICTURE}{picture}\">"),
        }}])
    };
    let same = |found: Value| {
        compare(
            page("as it was", "1.2345", "1.9", "YQ==").as_array().unwrap(),
            found.as_array().unwrap(),
            false,
        )
        .is_ok()
    };
    assert!(same(page("as it was", "1.2344", "17.3", "Yg==")));
    assert!(!same(page("as it was", "1.3345", "1.9", "YQ==")));
    assert!(!same(page("as it is", "1.2345", "1.9", "YQ==")));
}

/// A notebook from elsewhere is untrusted: Jupyter removes scripts and drawings from it.
#[test]
fn committed_outputs_contain_nothing_that_jupyter_removes() {
    for entry in std::fs::read_dir(directory()).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|end| end == "ipynb") {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.contains("<svg") && !text.contains("<script"), "{}", file.display());
        }
    }
}

#[test]
fn numbers_are_compared_to_four_digits_and_times_are_not() {
    let committed = "step 20: loss 0.4312  30.1 a second  2 s left\n source   loss   seconds\n ────\n ja     1.2345       1.9\n";
    let found = "step 20: loss 0.4313  17.2 a second  4 s left\n source   loss   seconds\n ────\n ja     1.2344       7.3\n";
    assert_eq!(same_text(committed, found), Ok(()));
    assert!(same_text(committed, &found.replace("0.4313", "0.4412")).is_err());
    assert!(same_text(committed, &found.replace("step 20", "step 21")).is_err());
    assert!(same_text(committed, &found.replace("ja", "math")).is_err());
}
