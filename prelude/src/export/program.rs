//! Statements as a Rust program, which prints what they showed and, in the end, the coefficients.

use std::fmt::Write;

use super::code::Code;

const HEADER: &str = "\
//! A session of DAM Lab as a Rust program. Run it in the directory of that session:
//! paths are as they were given, and existing output of bake and save is replaced.
//!
//! It is the `src/main.rs` of a package with this `Cargo.toml`, where DIRECTORY contains the
//! sources of DAM Lab:
//!
//! ```toml
//! [package]
//! name = \"merge\"
//! edition = \"2024\"
//!
//! [dependencies]
//! dam-prelude = { path = \"DIRECTORY/prelude\" }
//! ```
//!
//! ```text
//! cargo run --release            # cargo run --release --manifest-path PACKAGE/Cargo.toml from elsewhere
//! ```

use dam_prelude::*;

fn main() -> dam_prelude::Result<()> {
";

/// The program of `code`.
pub fn program(code: &Code) -> String {
    let mut text = HEADER.to_owned();
    for block in &code.blocks {
        put(&mut text, &format!("// {}", comment(&block.statement)));
        block.lines.iter().for_each(|line| put(&mut text, line));
        block.shown.iter().for_each(|shown| put(&mut text, &print(shown)));
        text.push('\n');
    }
    if let Some((what, shown)) = code.endings().last() {
        put(&mut text, &format!("// {what}"));
        put(&mut text, &print(shown));
    }
    text.push_str("    Ok(())\n}\n");
    text
}

/// Code of one or more lines, within `main`.
fn put(text: &mut String, code: &str) {
    for line in code.lines() {
        let _ = writeln!(text, "    {line}");
    }
}

fn print(shown: &str) -> String {
    if shown.chars().all(char::is_alphanumeric) {
        return format!("println!(\"{{{shown}}}\\n\");");
    }
    format!("println!(\"{{}}\\n\", {shown});")
}

/// Text as a one-line comment, without line ends and characters that reverse the text.
fn comment(text: &str) -> String {
    let one = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    text.chars().map(one).collect()
}
