//! The results of `generate`: one answer, or those of the merge and its sources side by side.

use std::fmt;

use serde::Serialize;

use super::evcxr::cell;
use super::lines::COLUMNS;
use super::lines::{printable, side_by_side};
use super::render::Render;
use super::table::Table;

shown_as_table!(Answer);

/// The result of `generate`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The prompt.
    pub prompt: String,
    /// The merge's answer, without special tokens.
    pub text: String,
    /// The model's positions, if the answer ended because they were all used.
    pub full: Option<usize>,
}

impl Answer {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["prompt", "answer"]);
        table.rows.push(vec![self.prompt.clone(), self.text.clone()]);
        table.notes.extend(self.full.map(full));
        table
    }
}

/// The result of `generate --all`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answers {
    /// The prompt.
    pub prompt: String,
    /// Each model's name and answer, without special tokens: the merge (named `DAM` or by its
    /// method), then the sources, the base last.
    pub rows: Vec<(String, String)>,
    /// Whether generation was interrupted.
    pub stopped: bool,
    /// The model's positions, if an answer ended because they were all used.
    pub full: Option<usize>,
}

impl Answers {
    /// Returns the merge's answer.
    pub fn text(&self) -> &str {
        self.rows.first().map_or("", |(_, text)| text)
    }

    /// Returns the answer of the source `name`.
    pub fn source(&self, name: &str) -> Option<&str> {
        self.rows.iter().skip(1).find(|(row, _)| row == name).map(|(_, text)| text.as_str())
    }

    /// Formats the answers in lines of at most `width` columns: side by side if they fit, else one
    /// after the other.
    pub fn lines(&self, width: usize) -> String {
        let rows: Vec<(&str, &str)> =
            self.rows.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let notes: String = self.notes().into_iter().map(|note| format!("\n{note}")).collect();
        side_by_side(&rows, width) + &notes
    }

    fn table(&self) -> Table {
        let mut table = Table::new("", ["model", "answer"]);
        table.text_columns.insert(1);
        table.rows =
            self.rows.iter().map(|(name, text)| vec![name.clone(), printable(text)]).collect();
        table.notes.extend(self.notes());
        table
    }

    fn notes(&self) -> Vec<String> {
        self.full.map(full).into_iter().chain(self.stopped.then(|| STOPPED.to_owned())).collect()
    }

    /// Shows them as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        cell(&self.html(), &self.to_string());
    }
}

/// The note on answers that ended at the model's last position.
pub(crate) fn full(positions: usize) -> String {
    format!("ended early: prompt and answer use all {positions} positions of the model")
}

/// The note on interrupted generation.
pub(super) const STOPPED: &str = "stopped: answers are incomplete";

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(COLUMNS))
    }
}

impl Render for Answers {
    fn html(&self) -> String {
        self.table().html()
    }

    fn lines(&self, columns: Option<usize>) -> String {
        Self::lines(self, columns.unwrap_or(COLUMNS))
    }
}
