//! What `generate` gives: an answer, or those of the merge and of its sources side by side.

use std::fmt;

use serde::Serialize;

use super::lines::{printable, side_by_side};
use super::{COLUMNS, Shown, Table, cell};

shown_as_table!(Answer);

/// What `generate` gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// What was asked.
    pub prompt: String,
    /// What the merge says, without special tokens.
    pub text: String,
    /// The model's positions, where the answer ended because prompt and answer took all of them.
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

/// What `generate --all` gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answers {
    /// What was asked.
    pub prompt: String,
    /// What each model says, without special tokens: the merge, which is called `DAM` or by its method, then the
    /// sources, the base last.
    pub rows: Vec<(String, String)>,
    /// Whether an interrupt ended them.
    pub stopped: bool,
    /// The model's positions, where an answer ended because it took all of them.
    pub full: Option<usize>,
}

impl Answers {
    /// What the merge says.
    pub fn text(&self) -> &str {
        self.rows.first().map_or("", |(_, text)| text)
    }

    /// What the source `name` says.
    pub fn source(&self, name: &str) -> Option<&str> {
        self.rows.iter().skip(1).find(|(row, _)| row == name).map(|(_, text)| text.as_str())
    }

    /// The answers in lines of at most `width` columns: side by side where there is room, else one after the other.
    pub fn lines(&self, width: usize) -> String {
        let rows: Vec<(&str, &str)> = self.rows.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let notes: String = self.notes().into_iter().map(|note| format!("\n{note}")).collect();
        side_by_side(&rows, width) + &notes
    }

    fn table(&self) -> Table {
        let mut table = Table::new("", ["model", "answer"]);
        table.words.insert(1);
        table.rows = self.rows.iter().map(|(name, text)| vec![name.clone(), printable(text)]).collect();
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

/// Said where answers ended at the last of so many positions.
pub(crate) fn full(positions: usize) -> String {
    format!("ended early: prompt and answer take all {positions} positions that the model was made for")
}

/// Said where an interrupt ended generation.
pub(super) const STOPPED: &str = "stopped: answers are as far as they had come";

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(COLUMNS))
    }
}

impl Shown for Answers {
    fn html(&self) -> String {
        self.table().html()
    }

    fn lines(&self, columns: Option<usize>) -> String {
        Self::lines(self, columns.unwrap_or(COLUMNS))
    }
}
