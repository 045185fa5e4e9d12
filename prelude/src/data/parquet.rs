//! Rows of parquet. Fields of nested objects that are null are left out: Arrow gives every row the fields of all.

use bytes::Bytes as Shared;
use minijinja::value::{Serde, Value};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};

use super::columns::{Columns, Fault};
use super::rows::At;
use super::template::weight;
use crate::checkpoint::Bytes;
use crate::guard::guarded;
use crate::interrupt;

const HINT: &str =
    "write it anew with pandas or datasets (to_parquet), without compression or with snappy, gzip or zstd; or download it again";

/// Rows may be equal in their millions and take no room in a file: so many bytes of values are read for each of its bytes,
/// beside those that any file may have.
const TIMES: usize = 256;
const BESIDE: usize = 64 << 20;

/// Bytes that a row takes at least.
const ROW: usize = 64;

/// The rows of a file.
pub(super) fn read(bytes: &Bytes) -> Result<Vec<Columns>, (At, Fault)> {
    let most = bytes.len().saturating_mul(TIMES).saturating_add(BESIDE);
    let opened = guarded(|| {
        let reader = SerializedFileReader::new(Shared::from_owner(bytes.clone())).map_err(|e| e.to_string())?;
        let claimed: i64 = reader.metadata().row_groups().iter().map(|group| group.total_byte_size().max(0)).sum();
        if claimed.cast_unsigned() > most as u64 {
            return Err(format!("it says that it has {claimed} bytes of values, too many for a file of {}", bytes.len()));
        }
        Ok(RowIter::from_file_into(Box::new(reader)))
    });
    let unreadable = |reason: String| Fault::new(format!("it is not parquet that can be read: {reason}"), HINT);
    let mut stored = opened.map_err(|reason| (At::Row(1), unreadable(reason)))?;
    let (mut rows, mut taken) = (Vec::new(), 0usize);
    for number in 1.. {
        let next = guarded(|| stored.next().transpose().map(|row| row.map(|row| columns(&row))).map_err(|e| e.to_string()));
        match next.map_err(|reason| (At::Row(number), unreadable(reason)))? {
            None => break,
            // Whoever asked for the stop looks again, and takes no part for the whole.
            Some(_) if interrupt::requested() => break,
            Some(row) => {
                taken = taken.saturating_add(ROW + row.iter().map(|(name, value)| name.len() + weight(value)).sum::<usize>());
                if taken > most {
                    let reason = format!("it has more than {most} bytes of values, too many for a file of {}", bytes.len());
                    return Err((At::Row(number), unreadable(reason)));
                }
                rows.push(Columns::new(row));
            }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::data_type::Int64Type;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// A file of one column with `rows` equal numbers.
    fn equal(rows: usize) -> Vec<u8> {
        let schema = Arc::new(parse_message_type("message schema { REQUIRED INT64 a; }").unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values = vec![7; 1 << 16];
        for _ in 0..rows >> 16 {
            column.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
        }
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn rows_that_take_no_room_in_the_file_are_bounded() {
        let rows = |rows: usize| {
            let file = equal(rows);
            assert!(file.len() < 100_000, "{}", file.len());
            read(&Bytes::Owned(Arc::new(file)))
        };
        assert_eq!(rows(1 << 16).unwrap().len(), 1 << 16);
        let error = rows(1 << 22).map_err(|(at, fault)| at.error(std::path::Path::new("x.parquet"), fault)).err().unwrap();
        assert!(error.to_string().contains("too many for a file of"), "{error}");
    }
}
