//! The only file that prints: replies and errors, as text for a person or JSON for a program.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use console::measure_text_width;
use dam_prelude::show::printable;
use dam_prelude::verbs::Reply;
use serde_json::{Map, Value, json};

use crate::{pager, terminal};

/// Whether nobody reads standard output any more.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Where replies go.
#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Shows a verb's reply.
    pub fn reply(&self, verb: &str, seconds: f64, reply: &Reply) {
        if !self.json {
            match (&reply.figure, reply.ansi.as_deref().filter(|_| terminal::has_colours())) {
                (Some(figure), _) => terminal::show(figure).inspect(|text| self.say(text)).map_or((), drop),
                (None, Some(ansi)) => self.line(&shown(ansi)),
                (None, None) if verb == "help" && pager::page(&fitted(&reply.text, true)) => {}
                (None, None) => self.say(&reply.text),
            }
            return;
        }
        let mut object = Map::from_iter([("verb".into(), json!(verb)), ("seconds".into(), json!(seconds))]);
        object.extend(reply.json.clone());
        self.line(&Value::Object(object).to_string());
    }

    /// Shows what was done: text for a person, `fields` for a program.
    #[cfg(feature = "jupyter")]
    pub fn object(&self, what: &str, text: &str, mut fields: Value) {
        if self.json {
            fields["verb"] = json!(what);
            self.line(&fields.to_string());
        } else {
            self.say(text);
        }
    }

    /// Shows an error: on standard error for a person, on standard output for a program.
    pub fn error(&self, verb: &str, error: &anyhow::Error) {
        let hint = hint(error);
        if self.json {
            self.line(&json!({"verb": verb, "error": error.to_string(), "hint": hint}).to_string());
            return;
        }
        let hint = hint.map(|h| format!("\nhint: {h}")).unwrap_or_default();
        note(&format!("error: {error}{hint}"));
    }

    /// Shows text for a person; nothing if there is none.
    pub fn say(&self, text: &str) {
        if !text.is_empty() {
            self.line(&fitted(text, std::io::stdout().is_terminal()));
        }
    }

    fn line(&self, text: &str) {
        self.write(format!("{text}\n").as_bytes());
    }

    /// Writes `bytes` as they are.
    pub fn write(&self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            // Nobody reads on (`dam ... | head`). A merge that was asked for is made all the same.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                if !CLOSED.swap(true, Ordering::Relaxed) {
                    note("standard output is closed: going on without it");
                }
            }
            Err(error) => {
                note(&format!("error: what is to be said cannot be written: {error}"));
                std::process::exit(1);
            }
        }
    }
}

/// Prints a line on standard error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", fitted(text, std::io::stderr().is_terminal()));
}

/// `text` as it can be shown: on a terminal in its width and letters.
fn fitted(text: &str, is_terminal: bool) -> String {
    let text = printable(text);
    if is_terminal { shown(&wrapped(&text, terminal::width())).into_owned() } else { text }
}

/// `text` in letters that the terminal has: what tables are drawn with, as wide as it was.
fn shown(text: &str) -> Cow<'_, str> {
    if !terminal::is_ascii() {
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

/// `text` with lines of prose broken between words, those with a word before it under its beginning; what is set in
/// columns stays.
fn wrapped(text: &str, width: usize) -> String {
    let mut all = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            all.push('\n');
        }
        let prose = prose(line).filter(|(_, indent)| indent * 2 <= width && measure_text_width(line) > width);
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

/// Where the prose of a line begins, in bytes and in columns; none where it is set in columns.
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
    use super::wrapped;

    #[test]
    fn prose_is_broken_between_words_and_columns_are_not() {
        assert_eq!(wrapped("hint: one two three", 10), "hint: one\ntwo three");
        assert_eq!(wrapped("  a b c d e", 7), "  a b c\n  d e");
        assert_eq!(wrapped("bake   write the merge", 16), "bake   write the\n       merge");
        let table = " model   loss   a long cell\n─────────────────────────";
        assert_eq!(wrapped(table, 10), table);
    }
}
