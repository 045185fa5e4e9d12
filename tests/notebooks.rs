//! The course: every notebook runs in the real kernel, and gives the outputs that are committed with it.
//!
//! `DAM_NOTEBOOKS=update cargo test --release --features jupyter --test notebooks` writes the outputs anew.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};

use common::jupyter::{Cell, Kernel};
use serde_json::{Value, json};

/// Numbers may differ by so much of their size, or by one in their last digit.
const TOLERANCE: f64 = 5e-4;

/// What stands after a number that is measured, and so not compared.
const MEASURED: [&str; 8] = ["s", "ms", "s,", "s.", "a", "MB", "GB", "minutes"];

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
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("notebooks")
}

fn run(name: &str) {
    let file = directory().join(name);
    let mut notebook: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let update = std::env::var("DAM_NOTEBOOKS").is_ok_and(|what| what == "update");
    let place = tempfile::tempdir().unwrap();
    let mut kernel = Kernel::start(place.path());
    let mut wrong = Vec::new();
    let mut count = 0;
    for cell in notebook["cells"].as_array_mut().unwrap().iter_mut().filter(|cell| cell["cell_type"] == "code") {
        count += 1;
        let source = text(&cell["source"]);
        let done = kernel.run(&source);
        wrong.extend(faults(&done).map(|fault| format!("{source}\n  {fault}")));
        if update {
            cell["outputs"] = kept(&done);
            cell["execution_count"] = count.into();
        } else if let Err(difference) = compare(cell["outputs"].as_array().unwrap(), kept(&done).as_array().unwrap()) {
            wrong.push(format!("{source}\n  {difference}"));
        }
    }
    kernel.shut_down();
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
    assert!(count >= 3, "{name} has {count} cells of code");
    if update {
        let mut text = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b" ");
        serde::Serialize::serialize(&notebook, &mut serde_json::Serializer::with_formatter(&mut text, indent)).unwrap();
        text.push(b'\n');
        std::fs::write(file, text).unwrap();
    }
}

/// A text of a notebook, which may be one string or its lines.
fn text(value: &Value) -> String {
    match value {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        _ => value.as_str().unwrap_or_default().to_owned(),
    }
}

/// What must not be in a notebook.
fn faults(cell: &Cell) -> impl Iterator<Item = String> {
    let kinds = ["error", "stderr"].map(|kind| (kind, cell.text(kind)));
    kinds.into_iter().filter(|(_, text)| !text.is_empty()).map(|(kind, text)| format!("{kind}: {text}"))
}

/// The outputs as a notebook keeps them.
fn kept(cell: &Cell) -> Value {
    let one = |output: &Value| {
        let mut output = output.clone();
        if let Some(output) = output.as_object_mut() {
            output.remove("id");
        }
        output
    };
    cell.outputs.iter().map(one).collect()
}

/// Whether outputs are those committed: the same kinds, as many pictures, the same words, numbers to four digits.
fn compare(committed: &[Value], found: &[Value]) -> Result<(), String> {
    let kinds = |outputs: &[Value]| outputs.iter().map(|o| o["output_type"].clone()).collect::<Vec<_>>();
    if kinds(committed) != kinds(found) {
        return Err(format!("committed are {}, found {}", json!(kinds(committed)), json!(kinds(found))));
    }
    for (committed, found) in committed.iter().zip(found) {
        let pictures = |output: &Value| text(&output["data"]["text/html"]).matches("<svg").count();
        if pictures(committed) != pictures(found) {
            return Err(format!("{} pictures are committed, {} found", pictures(committed), pictures(found)));
        }
        for part in [&["text"][..], &["data", "text/plain"]] {
            let of = |output: &Value| text(part.iter().fold(output, |value, key| &value[*key]));
            same_text(&of(committed), &of(found))?;
        }
    }
    Ok(())
}

fn same_text(committed: &str, found: &str) -> Result<(), String> {
    let (a, b) = (words(committed), words(found));
    if a.len() != b.len() {
        return Err(format!("committed is\n{committed}\n  found\n{found}"));
    }
    match a.iter().zip(&b).find(|(a, b)| !same_word(a, b)) {
        Some((a, b)) => Err(format!("committed is `{a}`, found `{b}`, in\n{found}")),
        None => Ok(()),
    }
}

/// The words of a text that are compared: none that is measured, and nothing that only draws.
fn words(text: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut masked: Vec<(usize, usize)> = Vec::new();
    for line in text.lines() {
        let words = placed(line);
        // Columns align right, with their names.
        let names = words.iter().filter(|(_, word)| ["seconds", "memory", "time"].contains(word));
        let columns: Vec<(usize, usize)> = names.map(|(at, word)| (*at, at + word.chars().count())).collect();
        if !columns.is_empty() {
            masked = columns;
        } else if line.trim().is_empty() {
            masked.clear();
        }
        for (i, (at, word)) in words.iter().enumerate() {
            let end = at + word.chars().count();
            let in_column = masked.iter().any(|(_, column)| *column == end);
            let is_number = word.starts_with(|c: char| c.is_ascii_digit());
            let is_measured = is_number && words.get(i + 1).is_some_and(|(_, next)| MEASURED.contains(next));
            if word.chars().any(char::is_alphanumeric) && !(in_column && is_number) && !is_measured {
                kept.push((*word).to_owned());
            }
        }
    }
    kept
}

/// The words of a line, with the columns at which they begin.
fn placed(line: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let begin = rest.trim_start();
        let Some(word) = begin.split_whitespace().next() else { return words };
        let before = &line[..line.len() - begin.len()];
        words.push((before.chars().count(), word));
        rest = &begin[word.len()..];
    }
}

fn same_word(a: &str, b: &str) -> bool {
    let number = |word: &str| word.trim_matches(|c| "(),%*;:×[]".contains(c)).parse::<f64>().ok();
    match (number(a), number(b)) {
        (Some(x), Some(y)) => {
            let digits = a.split('.').nth(1).map_or(0, |part| part.chars().take_while(char::is_ascii_digit).count());
            let last = 10f64.powi(-i32::try_from(digits).unwrap_or(0)) * 1.01;
            (x - y).abs() <= (TOLERANCE * x.abs().max(y.abs())).max(if digits > 0 { last } else { 0.0 })
        }
        _ => a == b,
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
