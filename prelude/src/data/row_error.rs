//! What is wrong with a row of a data file, and where it is.

use std::path::Path;

use crate::error::Error;

/// What is wrong with a row, and the hint.
#[derive(Debug, PartialEq)]
pub(super) struct RowError {
    pub reason: String,
    pub hint: &'static str,
}

/// The known columns, for the hint of a row that has none of them.
const LAYOUTS: &str = "a row has an input (instruction, question, query, problem, prompt, input or text) and an output (output, \
                       solution, answer, response, ...), or messages, or prompt and completion, or text alone, or input_ids; \
                       see `help data`";

impl RowError {
    pub fn new(reason: impl Into<String>, hint: &'static str) -> Self {
        Self { reason: reason.into(), hint }
    }

    /// The error for columns that are missing or do not belong together.
    pub fn layout(reason: impl Into<String>) -> Self {
        Self::new(reason, LAYOUTS)
    }
}

/// The position of a row in its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RowPosition {
    /// The line in a file of lines, counted from 1.
    Line(usize),
    /// The row in a table or list, counted from 1 without the header.
    Row(usize),
}

impl RowPosition {
    /// The error for an invalid row.
    pub fn error(self, file: &Path, RowError { reason, hint }: RowError) -> Error {
        let (unit, line) = self.parts();
        Error::InvalidRow { file: file.into(), unit, line, reason, hint }
    }

    /// The unit, and the number.
    pub fn parts(self) -> (&'static str, usize) {
        match self {
            RowPosition::Line(number) => ("line", number),
            RowPosition::Row(number) => ("row", number),
        }
    }
}
