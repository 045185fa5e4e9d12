//! Tables of text: CSV and TSV, with a header row. Fields in quotes may hold line breaks; an empty field is null.

use std::collections::BTreeSet;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use minijinja::value::Value;

use super::columns::{Columns, Fault};
use super::rows::At;
use crate::interrupt;

const HINT: &str = "every row has a field for each column of the header; one with the delimiter, a quote or a line break in it stands in \
                    \"quotes\", quotes in it are doubled";

/// The rows of a table.
pub(super) fn read(bytes: &[u8], delimiter: u8) -> Result<Vec<Columns>, (At, Fault)> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let header = reader.headers().map_err(|e| (At::Line(1), fault(&e)))?.clone();
    let mut names = BTreeSet::new();
    if let Some(twice) = header.iter().find(|name| !names.insert(*name)) {
        return Err((At::Line(1), Fault::new(format!("its header has `{twice}` twice"), "give every column a name of its own")));
    }
    let row = |(number, record): (usize, Result<StringRecord, csv::Error>)| {
        let record = record.map_err(|e| (At::Row(number), fault(&e)))?;
        let field = |text: &str| if text.is_empty() { Value::from(()) } else { Value::from(text) };
        Ok(Columns::new(header.iter().map(str::to_owned).zip(record.iter().map(field)).collect()))
    };
    (1..).zip(reader.records()).take_while(|_| !interrupt::requested()).map(row).collect()
}

fn fault(error: &csv::Error) -> Fault {
    match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            Fault::new(format!("it has {len} fields, and the header has {expected_len}"), HINT)
        }
        ErrorKind::Utf8 { err, .. } => Fault::new(format!("it is not UTF-8 in field {}", err.field() + 1), "save it as UTF-8"),
        _ => Fault::new(error.to_string(), HINT),
    }
}
