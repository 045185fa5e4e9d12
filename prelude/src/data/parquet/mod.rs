//! Reads rows of parquet files. Null fields of nested objects are dropped, because Arrow gives
//! every row the fields of all.

mod pages;

use bytes::Bytes as Shared;
use minijinja::value::{Serde, Value};
use parquet::data_type::ByteArray;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};

use super::columns::Columns;
use super::row_error::{RowError, RowPosition};
use super::template::value_bytes;
use crate::checkpoint::Bytes;
use crate::guard::guarded;
use crate::interrupt;

const HINT: &str = "rewrite it with pandas or datasets (to_parquet), uncompressed or with snappy, gzip or zstd; or download it again";

/// Limits on decompressed values: at most `TIMES` bytes of values per byte of the file, plus
/// `BESIDE`. Millions of equal rows may take almost no room in a file.
const TIMES: usize = 256;
const BESIDE: usize = 64 << 20;

/// The minimum size of a row in memory, in bytes.
const ROW: usize = 64;

/// Reads all rows of a file.
pub(super) fn read(bytes: &Bytes) -> Result<Vec<Columns>, (RowPosition, RowError)> {
    let most = bytes.len().saturating_mul(TIMES).saturating_add(BESIDE);
    let opened = guarded(|| {
        let reader = SerializedFileReader::new(Shared::from_owner(bytes.clone()))
            .map_err(|e| e.to_string())?;
        let claimed: i64 =
            reader.metadata().row_groups().iter().map(|group| group.total_byte_size().max(0)).sum();
        if claimed.cast_unsigned() > most as u64 {
            return Err(format!(
                "it claims {claimed} bytes of values, too many for a file of {} bytes",
                bytes.len()
            ));
        }
        bounded(bytes, reader.metadata().row_groups(), most)?;
        Ok(RowIter::from_file_into(Box::new(reader)))
    });
    let unreadable =
        |reason: String| RowError::new(format!("cannot read it as parquet: {reason}"), HINT);
    let mut stored = opened.map_err(|reason| (RowPosition::Row(1), unreadable(reason)))?;
    let (mut rows, mut taken) = (Vec::new(), 0usize);
    for number in 1.. {
        let next = guarded(|| {
            stored
                .next()
                .transpose()
                .map(|row| row.map(|row| columns(&row)))
                .map_err(|e| e.to_string())
        });
        match next.map_err(|reason| (RowPosition::Row(number), unreadable(reason)))? {
            None => break,
            // The caller checks the stop flag again and does not use partial results.
            Some(_) if interrupt::requested() => break,
            Some(row) => {
                taken = taken.saturating_add(
                    ROW + row
                        .iter()
                        .map(|(name, value)| name.len() + value_bytes(value))
                        .sum::<usize>(),
                );
                if taken > most {
                    let reason = format!(
                        "it has more than {most} bytes of values, too many for a file of {} bytes",
                        bytes.len()
                    );
                    return Err((RowPosition::Row(number), unreadable(reason)));
                }
                rows.push(Columns::new(row));
            }
        }
    }
    Ok(rows)
}

/// Returns an error if the pages of `groups` claim more than `most` bytes, or the dictionaries of
/// one group would need more: the parquet crate allocates that memory before reading.
fn bounded(bytes: &[u8], groups: &[RowGroupMetaData], most: usize) -> Result<(), String> {
    let mut claimed = 0u64;
    for group in groups {
        let mut entries = 0u64;
        for column in group.columns() {
            let (start, length) = column.byte_range();
            let chunk = usize::try_from(start)
                .ok()
                .and_then(|start| bytes.get(start..)?.get(..usize::try_from(length).ok()?));
            let claims = chunk.and_then(pages::claims);
            let claims = claims.ok_or_else(|| {
                format!("the column `{}` does not consist of pages", column.column_path().string())
            })?;
            claimed = claimed.saturating_add(claims.bytes);
            entries = entries.saturating_add(claims.entries);
        }
        let claimed = claimed.max(entries.saturating_mul(size_of::<ByteArray>() as u64));
        if claimed > most as u64 {
            return Err(format!(
                "its pages claim {claimed} bytes, too many for a file of {} bytes",
                bytes.len()
            ));
        }
    }
    Ok(())
}

fn columns(row: &Row) -> Vec<(String, Value)> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Group(row) => {
            Value::from_pairs(columns(row).into_iter().filter(|(_, value)| !value.is_none()))
        }
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            Value::from_pairs(map.entries().iter().map(|(key, item)| (value(key), value(item))))
        }
        Field::Str(text) => Value::from(text.as_str()),
        other => Value::from(Serde(other.to_json_value())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::data_type::Int64Type;
    use parquet::file::metadata::ColumnChunkMetaData;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

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
    fn equal_rows_are_bounded() {
        let rows = |rows: usize| {
            let file = equal(rows);
            assert!(file.len() < 100_000, "{}", file.len());
            read(&Bytes::Owned(Arc::new(file)))
        };
        assert_eq!(rows(1 << 16).unwrap().len(), 1 << 16);
        let error = rows(1 << 22)
            .map_err(|(at, fault)| at.error(std::path::Path::new("x.parquet"), fault))
            .err()
            .unwrap();
        assert!(error.to_string().contains("too many for a file of"), "{error}");
    }

    /// The parquet crate allocates what a header claims before it finds that the page has only a
    /// few bytes.
    #[test]
    fn claimed_page_sizes_are_bounded() {
        let schema = Arc::new(parse_message_type("message schema { REQUIRED INT64 a; }").unwrap());
        let schema = Arc::new(SchemaDescriptor::new(schema));
        let error = |chunk: &[u8]| {
            let column = ColumnChunkMetaData::builder(schema.column(0))
                .set_total_compressed_size(chunk.len() as i64);
            let group = RowGroupMetaData::builder(schema.clone())
                .set_column_metadata(vec![column.build().unwrap()]);
            bounded(chunk, &[group.build().unwrap()], 1 << 20).err()
        };
        let most = [0xfe, 0xff, 0xff, 0xff, 0x0f];
        let page = |bytes: &[u8]| [&[0x15, 0, 0x15], bytes, &[0x15, 2, 0, b'x']].concat();
        let dictionary = |entries: &[u8]| {
            [&[0x15, 4, 0x15, 2, 0x15, 2, 0x4c, 0x15], entries, &[0x15, 0, 0, 0, b'x']].concat()
        };
        assert_eq!([error(&page(&[2])), error(&dictionary(&[2]))], [None, None]);
        for chunk in [page(&most), dictionary(&most)] {
            let error = error(&chunk).unwrap();
            assert!(error.contains("too many for a file of"), "{error}");
        }
        assert!(
            error(&page(&[2])[1..]).unwrap().contains("the column `a` does not consist of pages")
        );
    }
}
