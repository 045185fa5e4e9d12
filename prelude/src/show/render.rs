//! What every report can be shown as.

use super::figure::Figure;
use super::lines::COLUMNS;
use super::table::Table;

/// A report with a form for notebooks and one for terminals.
pub(crate) trait Render {
    /// Returns an HTML fragment.
    fn html(&self) -> String;

    /// Returns text, for a terminal of `columns` columns if given.
    fn lines(&self, columns: Option<usize>) -> String;
}

impl Render for Table {
    fn html(&self) -> String {
        Table::html(self)
    }

    fn lines(&self, columns: Option<usize>) -> String {
        Table::lines(self, columns)
    }
}

impl Render for Figure {
    fn html(&self) -> String {
        Figure::html(self)
    }

    fn lines(&self, columns: Option<usize>) -> String {
        self.text(columns.unwrap_or(COLUMNS), false)
    }
}
