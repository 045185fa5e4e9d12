//! Prints replies and errors, as text for people or JSON for programs. Only this file writes verb
//! output.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use console::measure_text_width;
use dam_prelude::show::printable;
use dam_prelude::verbs::Reply;
use serde_json::{Map, Value, json};

use crate::terminal::{images, pager, screen};

/// Whether standard output was found closed.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// The output of verbs.
#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints the reply of a verb.
    pub fn reply(&self, verb: &str, seconds: f64, reply: &Reply) {
        if !self.json {
            match (&reply.figure, reply.ansi.as_deref().filter(|_| screen::has_colours())) {
                (Some(figure), _) => {
                    images::show(figure).inspect(|text| self.print(text)).map_or((), drop)
                }
                (None, Some(ansi)) => self.line(&in_charset(ansi)),
                (None, None) if reply.is_paged && pager::page(&fit(&reply.text, true)) => {}
                (None, None) => self.print(&reply.text),
            }
            return;
        }
        let mut object =
            Map::from_iter([("verb".into(), json!(verb)), ("seconds".into(), json!(seconds))]);
        object.extend(reply.json.clone());
        self.line(&Value::Object(object).to_string());
    }

    /// Prints the result of a command: text for people, `fields` for programs.
    #[cfg(feature = "jupyter")]
    pub fn object(&self, what: &str, text: &str, mut fields: Value) {
        if self.json {
            fields["verb"] = json!(what);
            self.line(&fields.to_string());
        } else {
            self.print(text);
        }
    }

    /// Prints an error: on standard error as text, or on standard output as JSON.
    pub fn error(&self, verb: &str, error: &anyhow::Error) {
        let hint = hint(error);
        if self.json {
            self.line(&json!({"verb": verb, "error": error.to_string(), "hint": hint}).to_string());
            return;
        }
        let hint = hint.map(|h| format!("\nhint: {h}")).unwrap_or_default();
        note(&format!("error: {error}{hint}"));
    }

    /// Prints text for people, if it is not empty.
    pub fn print(&self, text: &str) {
        if !text.is_empty() {
            self.line(&fit(text, std::io::stdout().is_terminal()));
        }
    }

    fn line(&self, text: &str) {
        self.write(format!("{text}\n").as_bytes());
    }

    /// Writes `bytes` unchanged.
    pub fn write(&self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            // The reader has gone (`dam ... | head`). The verbs still run to the end.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                if !CLOSED.swap(true, Ordering::Relaxed) {
                    note("standard output is closed; continuing without it");
                }
            }
            Err(error) => {
                note(&format!("error: cannot write to standard output: {error}"));
                std::process::exit(1);
            }
        }
    }
}

/// Prints a line on standard error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", fit(text, std::io::stderr().is_terminal()));
}

/// `text` ready to print: wrapped to the width and reduced to the character set of a terminal.
fn fit(text: &str, is_terminal: bool) -> String {
    let text = printable(text);
    if is_terminal { in_charset(&wrap(&text, screen::width())).into_owned() } else { text }
}

/// `text` in the character set of the terminal. Table characters are replaced by ASCII of the same
/// width.
fn in_charset(text: &str) -> Cow<'_, str> {
    if !screen::is_ascii() {
        return text.into();
    }
    let plain = |c| match c {
        '─' => '-',
        '±' => '~',
        '…' => '.',
        c => c,
    };
    text.chars().map(plain).collect()
}

/// `text` with prose wrapped between words and indented below its label. Tabular lines are kept.
fn wrap(text: &str, width: usize) -> String {
    let mut all = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            all.push('\n');
        }
        let prose = prose(line)
            .filter(|(_, indent)| indent * 2 <= width && measure_text_width(line) > width);
        let Some((start, indent)) = prose else {
            all.push_str(line);
            continue;
        };
        all.push_str(&line[..start]);
        let mut used = indent;
        for (j, word) in line[start..].split_whitespace().enumerate() {
            let columns = measure_text_width(word);
            if j > 0 && used + 1 + columns > width {
                all.push('\n');
                all.push_str(&" ".repeat(indent));
                used = indent;
            } else if j > 0 {
                all.push(' ');
                used += 1;
            }
            all.push_str(word);
            used += columns;
        }
    }
    all
}

/// The start of the prose in a line, in bytes and in columns; none for a tabular line.
fn prose(line: &str) -> Option<(usize, usize)> {
    let indent = line.len() - line.trim_start().len();
    let text = line.trim();
    let label = text.find("  ").map_or(0, |gap| text.len() - text[gap..].trim_start().len());
    let is_prose = !text[label..].contains("  ") && !text.contains('─');
    is_prose.then(|| (indent + label, measure_text_width(&line[..indent + label])))
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.downcast_ref::<dam_prelude::Error>().and_then(dam_prelude::Error::hint)
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn prose_is_wrapped_between_words_and_tables_are_not() {
        assert_eq!(wrap("hint: one two three", 10), "hint: one\ntwo three");
        assert_eq!(wrap("  a b c d e", 7), "  a b c\n  d e");
        assert_eq!(wrap("bake   write the merge", 16), "bake   write the\n       merge");
        let table = " model   loss   a long cell\n─────────────────────────";
        assert_eq!(wrap(table, 10), table);
    }
}
