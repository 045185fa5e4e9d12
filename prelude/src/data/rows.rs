//! Rows of data files: JSON lines, a JSON list, parquet, or text, a row a line.

use std::path::Path;

use bytes::Bytes as Shared;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use serde_json::{Map, Value};

use crate::checkpoint::Bytes;
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::interrupt;

/// A row as the file has it.
pub(super) enum RawRow {
    Object(Map<String, Value>),
    Text(String),
}

/// Every row of a file with its number, from 1. Empty lines are no rows.
///
/// # Errors
/// A row that cannot be read, with its number.
pub(super) fn read_rows(file: &Path, bytes: &Bytes) -> Result<Vec<(usize, RawRow)>> {
    let bad = |line: usize, reason: String| Error::BadLine { file: file.into(), line, reason };
    if bytes.starts_with(b"PAR1") {
        return read_parquet(bytes, bad);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_text = file.extension().is_some_and(|e| e == "txt");
    if !is_text && bytes.trim_ascii_start().starts_with(b"[") {
        let rows: Vec<Map<String, Value>> = serde_json::from_slice(bytes).map_err(|e| bad(e.line(), e.to_string()))?;
        return Ok(rows.into_iter().enumerate().map(|(i, row)| (i + 1, RawRow::Object(row))).collect());
    }
    let mut rows = Vec::new();
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        interrupt::check()?;
        let line = std::str::from_utf8(line).map_err(|e| bad(number + 1, format!("it is not UTF-8: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = match is_text {
            true => RawRow::Text(line.trim_end_matches('\r').into()),
            false => RawRow::Object(serde_json::from_str(line).map_err(|e| bad(number + 1, e.to_string()))?),
        };
        rows.push((number + 1, row));
    }
    Ok(rows)
}

fn read_parquet(bytes: &Bytes, bad: impl Fn(usize, String) -> Error) -> Result<Vec<(usize, RawRow)>> {
    let opened = guarded(|| {
        let reader = SerializedFileReader::new(Shared::from_owner(bytes.clone())).map_err(|e| e.to_string())?;
        Ok(RowIter::from_file_into(Box::new(reader)))
    });
    let mut stored = opened.map_err(|reason| bad(1, format!("it is not parquet that can be read: {reason}")))?;
    let mut rows = Vec::new();
    for line in 1.. {
        interrupt::check()?;
        let next = guarded(|| stored.next().transpose().map(|row| row.map(|row| row.to_json_value())).map_err(|e| e.to_string()));
        match next.map_err(|reason| bad(line, reason))? {
            None => break,
            Some(Value::Object(row)) => {
                rows.push((line, RawRow::Object(row.into_iter().filter(|(_, v)| !v.is_null()).collect())));
            }
            Some(other) => return Err(bad(line, format!("`{other}` is not a row"))),
        }
    }
    Ok(rows)
}
