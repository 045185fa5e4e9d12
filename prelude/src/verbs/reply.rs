//! What a verb replies.

use serde_json::{Map, Value};

use crate::checkpoint::Written;
use crate::show::{Figure, Render, paragraph};

/// What a verb answers: text for a person, fields for a program.
pub struct Reply {
    /// For a terminal.
    pub text: String,
    /// The same with ANSI colours, for a terminal that shows them; control characters of names and
    /// models' texts are replaced in it.
    pub ansi: Option<String>,
    /// The same for a notebook, where it has a form of its own.
    pub html: Option<String>,
    /// For a program.
    pub json: Map<String, Value>,
    /// The picture that it is, where it is one: a terminal draws it as well as it can.
    pub figure: Option<Figure>,
}

impl Reply {
    /// A reply with the fields of `json`, an object.
    pub fn new(text: impl std::fmt::Display, json: Value) -> Self {
        let json = if let Value::Object(map) = json { map } else { Map::new() };
        Self { text: text.to_string(), ansi: None, html: None, json, figure: None }
    }

    /// The same of what has a form for a notebook too, and fits the terminal.
    pub(super) fn shown(report: &impl Render, json: Value) -> Self {
        Self { html: Some(report.html()), ..Self::new(report.lines(columns()), json) }
    }

    /// The same of files that were written.
    pub(super) fn written(written: &Written) -> Self {
        Self::shown(written, written.json())
    }

    /// With one more line, if there is one.
    pub(super) fn and(mut self, note: impl std::fmt::Display) -> Self {
        let note = note.to_string();
        if !note.is_empty() {
            self.text = format!("{}\n{note}", self.text);
            self.html = self.html.map(|html| html + &paragraph(&note));
        }
        self
    }
}

/// The columns of the terminal that is standard output; none where it is not one.
pub fn columns() -> Option<usize> {
    console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns).clamp(24, 400))
}
