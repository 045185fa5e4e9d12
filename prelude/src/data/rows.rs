//! Rows of data files: JSON lines, a JSON list, parquet, or text, a row a line.

use std::path::Path;

use bytes::Bytes as Shared;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A row as the file has it.
pub(super) enum RawRow {
    Object(Map<String, Value>),
    Text(String),
}

/// Calls `f` with every row of a file and its number, from 1. Empty lines are no rows.
///
/// # Errors
/// A row that cannot be read, with its number; what `f` returns.
pub(super) fn read_rows(file: &Path, bytes: &[u8], mut f: impl FnMut(usize, RawRow) -> Result<()>) -> Result<()> {
    let bad = |line: usize, reason: String| Error::BadLine { file: file.into(), line, reason };
    if bytes.starts_with(b"PAR1") {
        return read_parquet(bytes, |line, row| f(line, RawRow::Object(row)), bad);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_text = file.extension().is_some_and(|e| e == "txt");
    if !is_text && bytes.trim_ascii_start().starts_with(b"[") {
        let rows: Vec<Map<String, Value>> = serde_json::from_slice(bytes).map_err(|e| bad(e.line(), e.to_string()))?;
        return rows.into_iter().enumerate().try_for_each(|(i, row)| f(i + 1, RawRow::Object(row)));
    }
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|e| bad(number + 1, format!("it is not UTF-8: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = match is_text {
            true => RawRow::Text(line.trim_end_matches('\r').into()),
            false => RawRow::Object(serde_json::from_str(line).map_err(|e| bad(number + 1, e.to_string()))?),
        };
        f(number + 1, row)?;
    }
    Ok(())
}

fn read_parquet(
    bytes: &[u8],
    mut f: impl FnMut(usize, Map<String, Value>) -> Result<()>,
    bad: impl Fn(usize, String) -> Error,
) -> Result<()> {
    // The parquet crate returns errors for most damaged files and panics on some.
    let guarded = |work: &mut dyn FnMut() -> std::result::Result<Option<Value>, String>| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        caught.unwrap_or_else(|_| Err("the file contradicts itself".into()))
    };
    let mut rows = None;
    let shared = Shared::copy_from_slice(bytes);
    let opened = guarded(&mut || {
        let reader = SerializedFileReader::new(shared.clone()).map_err(|e| e.to_string())?;
        rows = Some(RowIter::from_file_into(Box::new(reader)));
        Ok(None)
    });
    opened.map_err(|reason| bad(1, format!("it is not parquet that can be read: {reason}")))?;
    let Some(mut rows) = rows else { return Ok(()) };
    for line in 1.. {
        let next =
            guarded(&mut || rows.next().transpose().map(|row| row.map(|row| row.to_json_value())).map_err(|e| e.to_string()));
        match next.map_err(|reason| bad(line, reason))? {
            None => break,
            Some(Value::Object(row)) => f(line, row.into_iter().filter(|(_, v)| !v.is_null()).collect())?,
            Some(other) => return Err(bad(line, format!("`{other}` is not a row"))),
        }
    }
    Ok(())
}
