//! Reads rows of data files: JSON lines, a JSON list, tables (CSV, TSV), parquet, or text with one
//! row per line.

use std::path::Path;

use minijinja::value::{Value, ValueKind};

use super::columns::Columns;
use super::row_error::{RowError, RowPosition};
use super::{parquet, table};
use crate::checkpoint::Bytes;
use crate::error::Result;
use crate::interrupt;

/// A row before its layout is known.
pub(super) enum RawRow {
    Columns(Columns),
    Text(String),
}

const UTF8: &str = "save it as UTF-8";
const JSON: &str = "every line must be one JSON object, as written by json.dumps; a file with one JSON list begins with [; name tables .csv \
                    or .tsv, and text .txt";

/// Signatures of unsupported formats, with the reason and the hint.
const OTHERS: [(&[u8], &str, &str); 7] = [
    (b"\x1f\x8b", "it is compressed (gzip)", "unpack it: gunzip FILE"),
    (b"\x28\xb5\x2f\xfd", "it is compressed (zstd)", "unpack it: unzstd FILE"),
    (b"\xfd7zXZ\0", "it is compressed (xz)", "unpack it: unxz FILE"),
    (b"BZh", "it is compressed (bzip2)", "unpack it: bunzip2 FILE"),
    (
        b"PK\x03\x04",
        "it is an archive (zip, or a spreadsheet)",
        "unpack it, or save the spreadsheet as .csv",
    ),
    (b"\xff\xfe", "it is UTF-16", UTF8),
    (
        b"ARROW1",
        "it is an Arrow file",
        "load it with datasets and write it with to_parquet or to_json",
    ),
];

/// Reads every row of a file with its position. Empty lines are skipped.
///
/// # Errors
/// A row that cannot be read.
pub(super) fn read_rows(file: &Path, bytes: &Bytes) -> Result<Vec<(RowPosition, RawRow)>> {
    if bytes.starts_with(b"PAR1") {
        return columns(file, parquet::read(bytes));
    }
    if let Some((_, what, hint)) = OTHERS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return Err(RowPosition::Line(1).error(file, RowError::new(*what, hint)));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let ends_in =
        |extension: &str| file.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
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
        let bad = |reason: String, hint| {
            RowPosition::Line(number).error(file, RowError::new(reason, hint))
        };
        let line =
            std::str::from_utf8(line).map_err(|e| bad(format!("it is not UTF-8: {e}"), UTF8))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = if ends_in("txt") {
            RawRow::Text(line.trim_end_matches('\r').into())
        } else {
            let read = serde_json::from_str(line)
                .map_err(|e| RowError::new(message(&e), JSON))
                .and_then(object);
            RawRow::Columns(read.map_err(|error| RowPosition::Line(number).error(file, error))?)
        };
        rows.push((RowPosition::Line(number), row));
    }
    Ok(rows)
}

/// Reads every row of a table with its position, whatever its file is called.
///
/// # Errors
/// A row that cannot be read.
pub(super) fn read_table(
    file: &Path,
    bytes: &Bytes,
    delimiter: u8,
) -> Result<Vec<(RowPosition, RawRow)>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    columns(file, table::read(bytes, delimiter))
}

/// Converts the result of a reader of columns.
fn columns(
    file: &Path,
    read: Result<Vec<Columns>, (RowPosition, RowError)>,
) -> Result<Vec<(RowPosition, RawRow)>> {
    interrupt::check()?;
    let rows = read.map_err(|(at, error)| at.error(file, error))?;
    Ok((1..).map(RowPosition::Row).zip(rows.into_iter().map(RawRow::Columns)).collect())
}

fn read_list(bytes: &[u8]) -> Result<Vec<Columns>, (RowPosition, RowError)> {
    let bad = |e: serde_json::Error| {
        (
            RowPosition::Line(e.line()),
            RowError::new(message(&e), "the file must be one JSON list of objects, or JSON lines"),
        )
    };
    let rows: Vec<Value> = serde_json::from_slice(bytes).map_err(bad)?;
    (1..)
        .zip(rows)
        .map(|(number, row)| object(row).map_err(|error| (RowPosition::Row(number), error)))
        .collect()
}

/// The error of a JSON parser, without the line, which the message already contains.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{what}, at column {}", error.column())
}

/// The columns of an object.
fn object(value: Value) -> Result<Columns, RowError> {
    let keys = Some(&value)
        .filter(|value| value.kind() == ValueKind::Map)
        .and_then(|value| value.try_iter().ok());
    let keys = keys.ok_or_else(|| RowError::new("it is not a JSON object", JSON))?;
    let column = |key: Value| (key.to_string(), value.get_item(&key).unwrap_or_default());
    Ok(Columns::new(keys.map(column).collect()))
}
