//! Rows of parquet. Fields of nested objects that are null are left out: Arrow gives every row the fields of all.

use bytes::Bytes as Shared;
use minijinja::value::{Serde, Value};
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};

use super::columns::{Columns, Fault};
use super::rows::At;
use crate::checkpoint::Bytes;
use crate::guard::guarded;
use crate::interrupt;

const HINT: &str =
    "write it anew with pandas or datasets (to_parquet), without compression or with snappy, gzip or zstd; or download it again";

/// The rows of a file.
pub(super) fn read(bytes: &Bytes) -> Result<Vec<Columns>, (At, Fault)> {
    let opened = guarded(|| {
        let reader = SerializedFileReader::new(Shared::from_owner(bytes.clone())).map_err(|e| e.to_string())?;
        Ok(RowIter::from_file_into(Box::new(reader)))
    });
    let unreadable = |reason: String| Fault::new(format!("it is not parquet that can be read: {reason}"), HINT);
    let mut stored = opened.map_err(|reason| (At::Row(1), unreadable(reason)))?;
    let mut rows = Vec::new();
    for number in 1.. {
        let next = guarded(|| stored.next().transpose().map(|row| row.map(|row| columns(&row))).map_err(|e| e.to_string()));
        match next.map_err(|reason| (At::Row(number), unreadable(reason)))? {
            None => break,
            // Whoever asked for the stop looks again, and takes no part for the whole.
            Some(_) if interrupt::requested() => break,
            Some(row) => rows.push(Columns::new(row)),
        }
    }
    Ok(rows)
}

fn columns(row: &Row) -> Vec<(String, Value)> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Group(row) => Value::from_pairs(columns(row).into_iter().filter(|(_, value)| !value.is_none())),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => Value::from_pairs(map.entries().iter().map(|(key, item)| (value(key), value(item)))),
        Field::Str(text) => Value::from(text.as_str()),
        other => Value::from(Serde(other.to_json_value())),
    }
}
