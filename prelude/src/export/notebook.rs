//! Statements as a notebook (nbformat 4.5): a Rust cell each, after a line about it.

use crate::Result;
use crate::error::Error;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};

use super::code::{Block, Code};

const TITLE: &str = "\
# A merge

A session of DAM Lab. Run it with the kernel *DAM (Rust)* in the directory of that session: paths are as
they were given, and existing output of `bake` and `save` is replaced.";

/// The notebook of `code`.
///
/// # Errors
/// None that is known.
pub fn notebook(code: &Code) -> Result<String> {
    let mut cells = vec![markdown("title", TITLE)];
    for (i, block) in code.blocks.iter().enumerate() {
        cells.push(markdown(&format!("text-{}", i + 1), &description(block)));
        cells.push(rust(&format!("code-{}", i + 1), &source(block)));
    }
    for (i, (what, shown)) in code.endings().iter().enumerate() {
        cells.push(markdown(&format!("look-text-{}", i + 1), what));
        cells.push(rust(&format!("look-{}", i + 1), shown));
    }
    let notebook = json!({
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "DAM (Rust)", "language": "rust", "name": "dam"},
            "language_info": {
                "codemirror_mode": "rust", "file_extension": ".rs", "mimetype": "text/rust", "name": "rust",
                "pygment_lexer": "rust",
            },
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    });
    let mut bytes = Vec::new();
    let mut writer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" "));
    let unwritten =
        |reason: String| Error::Refused { message: reason, hint: "export NAME.dam".into() };
    notebook.serialize(&mut writer).map_err(|e| unwritten(e.to_string()))?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(|e| unwritten(e.to_string()))
}

/// What a statement does, and its verb.
fn description(block: &Block) -> String {
    let Block { verb, about, statement, .. } = block;
    // Inline code has no line ends, and more backticks around it than in it.
    let code = if statement.contains(['`', '\n', '\r']) { *verb } else { statement };
    format!("**{verb}**: {about}. As a verb: `%{code}`")
}

/// The lines of a cell; the last shows its value.
fn source(block: &Block) -> String {
    let mut text = block.lines.join("\n");
    match block.shown.as_ref().or(block.in_cell.as_ref()) {
        Some(shown) if text.is_empty() => text = shown.clone(),
        Some(shown) => text = format!("{text}\n{shown}"),
        None => text.truncate(text.trim_end_matches(';').len()),
    }
    text
}

fn markdown(id: &str, text: &str) -> Value {
    json!({"cell_type": "markdown", "id": id, "metadata": {}, "source": lines(text)})
}

fn rust(id: &str, text: &str) -> Value {
    json!({"cell_type": "code", "execution_count": null, "id": id, "metadata": {}, "outputs": [], "source": lines(text)})
}

/// Lines with their line ends, as notebooks store them.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}
