//! Statements as a Rust program, which shows what was shown and, at the end, what the coefficients
//! became.

use std::fmt::Write;

use crate::Result;

use super::super::Statement;
use super::super::parse::line;
use super::code::Code;

const HEADER: &str = "\
//! What was done in a session of DAM Lab, as a program. Run it in the directory where it was made:
//! paths are as they were given, and what was baked or saved is replaced.
//!
//! It is the `src/main.rs` of a package with this `Cargo.toml`, where DIRECTORY is that of DAM
//! Lab's sources:
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

/// The program of `statements` over sources called `names`.
pub fn program(statements: &[Statement], names: &[String]) -> Result<String> {
    let code = Code::of(statements, names)?;
    let mut text = HEADER.to_owned();
    for block in &code.blocks {
        put(&mut text, &format!("// {}", comment(&line(&block.statement))));
        block.lines.iter().for_each(|line| put(&mut text, line));
        block.shown.iter().for_each(|shown| put(&mut text, &print(shown)));
        text.push('\n');
    }
    if let Some((what, shown)) = code.endings().last() {
        put(&mut text, &format!("// {what}"));
        put(&mut text, &print(shown));
    }
    text.push_str("    Ok(())\n}\n");
    Ok(text)
}

/// Code of one or more lines, within `main`.
fn put(text: &mut String, code: &str) {
    for line in code.lines() {
        let _ = writeln!(text, "    {line}");
    }
}

fn print(shown: &str) -> String {
    match shown.chars().all(char::is_alphanumeric) {
        true => format!("println!(\"{{{shown}}}\\n\");"),
        false => format!("println!(\"{{}}\\n\", {shown});"),
    }
}

/// Text as a comment of one line, without what turns it around or ends it.
fn comment(text: &str) -> String {
    let one = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    text.chars().map(one).collect()
}
