//! What a verb replies.

use serde_json::{Map, Value};

use crate::checkpoint::Written;
use crate::show::{Figure, Render, paragraph};

/// The reply of a verb: text for a person, fields for a program.
pub struct Reply {
    /// The text.
    pub text: String,
    /// The text with ANSI colours, for terminals with colours; control characters of names and of
    /// models' texts are replaced.
    pub ansi: Option<String>,
    /// The HTML for a notebook, if it has its own.
    pub html: Option<String>,
    /// The fields for a program.
    pub json: Map<String, Value>,
    /// The figure, if the reply is one; terminals draw it as well as they can.
    pub figure: Option<Figure>,
    /// Whether a terminal shows text that does not fit its screen in a pager.
    pub is_paged: bool,
}

impl Reply {
    /// A reply with the fields of `json`, an object.
    pub fn new(text: impl std::fmt::Display, json: Value) -> Self {
        let json = if let Value::Object(map) = json { map } else { Map::new() };
        Self { text: text.to_string(), ansi: None, html: None, json, figure: None, is_paged: false }
    }

    /// A reply with a report, which also has HTML and fits the terminal.
    pub(super) fn shown(report: &impl Render, json: Value) -> Self {
        Self { html: Some(report.html()), ..Self::new(report.lines(columns()), json) }
    }

    /// A reply about written files.
    pub(super) fn written(written: &Written) -> Self {
        Self::shown(written, written.json())
    }

    /// The same with one more line, unless it is empty.
    pub(super) fn and(mut self, note: impl std::fmt::Display) -> Self {
        let note = note.to_string();
        if !note.is_empty() {
            self.text = format!("{}\n{note}", self.text);
            self.html = self.html.map(|html| html + &paragraph(&note));
        }
        self
    }
}

/// The width of the terminal that is standard output; none if it is not a terminal.
pub fn columns() -> Option<usize> {
    console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns).clamp(24, 400))
}
