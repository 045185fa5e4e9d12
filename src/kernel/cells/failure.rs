//! The failure of a cell and its position, with the message first.

use serde_json::Value;

/// The failure of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub name: String,
    pub message: String,
    /// The lines shown.
    pub lines: Vec<String>,
    /// The position, as the compiler counts.
    pub position: Option<SourcePosition>,
}

/// A position in a file. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePosition {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

impl Failure {
    /// A failure with a message, and `rest` below it.
    pub fn new(name: &str, message: &str, rest: &str) -> Self {
        let head = format!("\u{1b}[31m{name}\u{1b}[0m: {message}");
        let lines =
            std::iter::once(head).chain((!rest.is_empty()).then(|| rest.to_owned())).collect();
        Self { name: name.into(), message: message.into(), lines, position: None }
    }

    /// The same failure with a line for its position below the message.
    pub fn at(mut self, position: String) -> Self {
        self.lines.insert(self.lines.len().min(1), position);
        self
    }
}

/// An error that ended a cell through `?`: its message and hint, from `Debug`.
pub fn error(text: &str) -> Failure {
    let (message, rest) = text.trim_end().split_once('\n').unwrap_or((text.trim_end(), ""));
    Failure::new("error", message, rest)
}

/// A panic: its message, position, and backtrace if requested. `report` is the prelude's report;
/// without one, as in a process without the prelude, `text` is what Rust itself printed.
pub fn panic(report: Option<&Value>, text: &str) -> Failure {
    let Some(report) = report else {
        let text = text.split("stack backtrace:").next().unwrap_or_default();
        let text = text.split("\nnote: ").next().unwrap_or_default().trim();
        let (position, message) = text.split_once('\n').unwrap_or(("", text));
        return Failure::new("panic", message.trim(), position.trim());
    };
    let part = |name: &str| report[name].as_str().unwrap_or_default();
    let number = |name: &str| report[name].as_u64().and_then(|number| usize::try_from(number).ok());
    let position = number("line").zip(number("column"));
    let position =
        position.map(|(line, column)| SourcePosition { file: part("file").into(), line, column });
    Failure { position, ..Failure::new("panic", part("message"), part("backtrace").trim_end()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_has_its_message_and_hint() {
        let failure = error("no such file `x`\nhint: look again\n");
        assert_eq!(
            (failure.message.as_str(), failure.lines[1].as_str()),
            ("no such file `x`", "hint: look again")
        );
    }

    #[test]
    fn a_panic_has_its_message_and_position() {
        let text = "\nthread 'main' (7) panicked at src/lib.rs:3:5:\nindex out of bounds\nstack backtrace:\n   0: a\n";
        let failure = panic(None, text);
        assert_eq!(failure.message, "index out of bounds");
        assert_eq!(failure.lines[1], "thread 'main' (7) panicked at src/lib.rs:3:5:");
        let report = json!({"message": "boom", "thread": null, "file": "src/lib.rs", "line": 3, "column": 5, "backtrace": null});
        let failure = panic(Some(&report), "");
        assert_eq!((failure.message.as_str(), failure.lines.len()), ("boom", 1));
        assert_eq!(
            failure.position,
            Some(SourcePosition { file: "src/lib.rs".into(), line: 3, column: 5 })
        );
        let failure = panic(Some(&json!({"message": "boom", "backtrace": "0: main\n"})), "")
            .at("cell:1:2".into());
        assert_eq!(failure.lines[1..], ["cell:1:2", "0: main"]);
    }
}
