//! Reads text tables: CSV and TSV with a header row. Quoted fields may contain line breaks; an
//! empty field is null.

use std::collections::BTreeSet;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use minijinja::value::Value;

use super::columns::Columns;
use super::row_error::{RowError, RowPosition};
use crate::interrupt;

const HINT: &str = "every row needs one field per column of the header; quote fields that contain the delimiter, a quote or a line break, \
                    and double the quotes in them";

/// Reads the rows of a table.
pub(super) fn read(bytes: &[u8], delimiter: u8) -> Result<Vec<Columns>, (RowPosition, RowError)> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let header = reader.headers().map_err(|e| (RowPosition::Line(1), row_error(&e)))?.clone();
    let mut names = BTreeSet::new();
    if let Some(twice) = header.iter().find(|name| !names.insert(*name)) {
        return Err((
            RowPosition::Line(1),
            RowError::new(
                format!("the column `{twice}` appears twice in its header"),
                "give every column a unique name",
            ),
        ));
    }
    let row = |(number, record): (usize, Result<StringRecord, csv::Error>)| {
        let record = record.map_err(|e| (RowPosition::Row(number), row_error(&e)))?;
        let field = |text: &str| if text.is_empty() { Value::from(()) } else { Value::from(text) };
        Ok(Columns::new(header.iter().map(str::to_owned).zip(record.iter().map(field)).collect()))
    };
    (1..).zip(reader.records()).take_while(|_| !interrupt::requested()).map(row).collect()
}

fn row_error(error: &csv::Error) -> RowError {
    match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            RowError::new(format!("it has {len} fields, but the header has {expected_len}"), HINT)
        }
        ErrorKind::Utf8 { err, .. } => RowError::new(
            format!("it is not UTF-8 in field {}", err.field() + 1),
            "save it as UTF-8",
        ),
        _ => RowError::new(error.to_string(), HINT),
    }
}
