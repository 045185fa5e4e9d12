//! Entry points for fuzzers: each reader of untrusted files, given arbitrary bytes.
//! `tests/fuzzed.rs` mutates valid files for one second per reader; `tests/fuzz/` is for
//! cargo-fuzz. Readers may return any result, but must not panic, hang, or allocate memory for
//! sizes that the bytes merely claim.

use std::path::Path;
use std::sync::OnceLock;

use crate::checkpoint::fuzz::file;
use crate::checkpoint::{Architecture, Source};
use crate::data::Dataset;
use crate::methods::{Documents, Recipe};
use crate::session::Dam;
use crate::verbs;

pub use crate::checkpoint::fuzz::{adapter, gguf, index, safetensors, tokenizer, torch};
pub use crate::data::fuzz::template;

/// A reader with its name.
pub type Target = (&'static str, fn(&[u8]));

/// All readers.
pub const TARGETS: [Target; 12] = [
    ("safetensors", safetensors),
    ("index", index),
    ("config", config),
    ("gguf", gguf),
    ("adapter", adapter),
    ("torch", torch),
    ("tokenizer", tokenizer),
    ("template", template),
    ("recipe", recipe),
    ("data", data),
    ("session", session),
    ("line", line),
];

/// config.json.
pub fn config(bytes: &[u8]) {
    let file = Path::new("config.json");
    if let Ok(architecture) = Architecture::parse(file, bytes) {
        let _ = (architecture.tensors(), architecture.difference(&architecture));
    }
    let _ = Architecture::family_of(file, bytes);
}

/// A mergekit recipe.
pub fn recipe(bytes: &[u8]) {
    if let Ok(documents) = Documents::open(&file("recipe.yml", bytes)) {
        let (last, others) = documents.last();
        let _: Vec<_> = last.iter().chain(&others).map(Recipe::models).collect();
    }
}

/// Data: JSON lines, JSON and parquet, and the same bytes as a table and as text.
pub fn data(bytes: &[u8]) {
    static SOURCE: OnceLock<Option<Source>> = OnceLock::new();
    let Some(source) = SOURCE.get_or_init(|| Source::open("builtin:math").ok()) else { return };
    for name in ["data.jsonl", "data.csv", "data.txt"] {
        let _ = Dataset::read(&file(name, bytes).display().to_string(), source);
    }
}

/// A file written by `save`.
pub fn session(bytes: &[u8]) {
    let _ = Dam::open(file("session.dam", bytes));
}

/// A line of verbs.
pub fn line(bytes: &[u8]) {
    let (text, context) = (String::from_utf8_lossy(bytes), verbs::Context::default());
    if let Ok(statements) = verbs::statements(&text) {
        for statement in statements {
            let again = verbs::statements(&verbs::line(&statement)).unwrap_or_default();
            let same = matches!(&again[..], [one] if (&one.verb, &one.arguments) == (&statement.verb, &statement.arguments));
            assert!(same, "{statement:?} is written as {:?}", verbs::line(&statement));
        }
    }
    let _ = (verbs::check(&context, &text), verbs::is_possible(&context, &text));
    for at in [0, text.len() / 2, text.len()] {
        let _ = verbs::complete(&context, &text, at);
    }
}
