//! Rows of data files: JSON lines, a JSON list, tables (CSV, TSV), parquet, or text, a row per line.

use std::path::Path;

use minijinja::value::{Value, ValueKind};

use super::columns::{Columns, Fault};
use super::{parquet, table};
use crate::checkpoint::Bytes;
use crate::error::{Error, Result};
use crate::interrupt;

/// A row as the file has it.
pub(super) enum RawRow {
    Columns(Columns),
    Text(String),
}

/// Where a row is in its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum At {
    /// The line of a file of lines, from 1.
    Line(usize),
    /// The row of a table or list, from 1; a header is none.
    Row(usize),
}

impl At {
    /// The error that the row is at fault.
    pub fn error(self, file: &Path, Fault { reason, hint }: Fault) -> Error {
        let (unit, line) = self.parts();
        Error::BadLine { file: file.into(), unit, line, reason, hint }
    }

    /// What is counted, and its number.
    pub fn parts(self) -> (&'static str, usize) {
        match self {
            At::Line(number) => ("line", number),
            At::Row(number) => ("row", number),
        }
    }
}

const UTF8: &str = "save it as UTF-8";
const JSON: &str = "every line is one JSON object, as json.dumps writes it; a file that is one JSON list begins with [; tables end in .csv \
                    or .tsv, text in .txt";

/// What files begin with that are something else, and the remedy.
const OTHERS: [(&[u8], &str, &str); 7] = [
    (b"\x1f\x8b", "it is compressed (gzip)", "unpack it: gunzip FILE"),
    (b"\x28\xb5\x2f\xfd", "it is compressed (zstd)", "unpack it: unzstd FILE"),
    (b"\xfd7zXZ\0", "it is compressed (xz)", "unpack it: unxz FILE"),
    (b"BZh", "it is compressed (bzip2)", "unpack it: bunzip2 FILE"),
    (b"PK\x03\x04", "it is an archive (zip, or a workbook)", "unpack it, or save the workbook as .csv"),
    (b"\xff\xfe", "it is UTF-16", UTF8),
    (b"ARROW1", "it is an Arrow file", "load it with datasets and write it with to_parquet or to_json"),
];

/// Every row of a file and where it is. Empty lines are no rows.
///
/// # Errors
/// A row that cannot be read.
pub(super) fn read_rows(file: &Path, bytes: &Bytes) -> Result<Vec<(At, RawRow)>> {
    if bytes.starts_with(b"PAR1") {
        return columns(file, parquet::read(bytes));
    }
    if let Some((_, what, hint)) = OTHERS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return Err(At::Line(1).error(file, Fault::new(*what, hint)));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let ends_in = |extension: &str| file.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    for (extension, delimiter) in [("csv", b','), ("tsv", b'\t')] {
        if ends_in(extension) {
            return columns(file, table::read(bytes, delimiter));
        }
    }
    if !ends_in("txt") && bytes.trim_ascii_start().starts_with(b"[") {
        return columns(file, read_list(bytes));
    }
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        interrupt::check()?;
        let bad = |reason: String, hint| At::Line(number).error(file, Fault::new(reason, hint));
        let line = std::str::from_utf8(line).map_err(|e| bad(format!("it is not UTF-8: {e}"), UTF8))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = match ends_in("txt") {
            true => RawRow::Text(line.trim_end_matches('\r').into()),
            false => {
                let read = serde_json::from_str(line).map_err(|e| Fault::new(message(&e), JSON)).and_then(object);
                RawRow::Columns(read.map_err(|fault| At::Line(number).error(file, fault))?)
            }
        };
        rows.push((At::Line(number), row));
    }
    Ok(rows)
}

/// The rows that a reader of columns gave.
fn columns(file: &Path, read: Result<Vec<Columns>, (At, Fault)>) -> Result<Vec<(At, RawRow)>> {
    interrupt::check()?;
    let rows = read.map_err(|(at, fault)| at.error(file, fault))?;
    Ok((1..).map(At::Row).zip(rows.into_iter().map(RawRow::Columns)).collect())
}

fn read_list(bytes: &[u8]) -> Result<Vec<Columns>, (At, Fault)> {
    let bad = |e: serde_json::Error| {
        (At::Line(e.line()), Fault::new(message(&e), "the file is one JSON list of objects, or JSON lines"))
    };
    let rows: Vec<Value> = serde_json::from_slice(bytes).map_err(bad)?;
    (1..).zip(rows).map(|(number, row)| object(row).map_err(|fault| (At::Row(number), fault))).collect()
}

/// What is wrong with JSON, without the line, which is said already.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{what}, at column {}", error.column())
}

/// The columns of an object.
fn object(value: Value) -> Result<Columns, Fault> {
    let keys = Some(&value).filter(|value| value.kind() == ValueKind::Map).and_then(|value| value.try_iter().ok());
    let keys = keys.ok_or_else(|| Fault::new("it is not a JSON object", JSON))?;
    let column = |key: Value| (key.to_string(), value.get_item(&key).unwrap_or_default());
    Ok(Columns::new(keys.map(column).collect()))
}
