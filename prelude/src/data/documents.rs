//! Reads data files as documents: rows of named columns, of which every row has all, as the
//! `datasets` library reads them for benchmark tasks.

use std::path::Path;

use minijinja::value::{Value, ValueKind};

use super::columns::Columns;
use super::rows::{RawRow, read_rows, read_table};
use crate::checkpoint::Bytes;
use crate::error::{Error, Result};

/// The format of data files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentFormat {
    /// JSON lines, or one list.
    Json,
    Parquet,
    /// A table with a header; numbers and truth values are recognised column by column.
    Csv {
        delimiter: u8,
    },
}

/// The rows of one or more files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents {
    /// The names of all columns, in the order of their first appearance.
    pub columns: Vec<String>,
    /// Objects with all columns; missing values are none.
    pub rows: Vec<Value>,
}

/// Texts that pandas reads as missing.
const MISSING: [&str; 17] = [
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan",
];

impl Documents {
    /// Reads `files` of one format.
    ///
    /// # Errors
    /// A row that cannot be read, or files without rows.
    pub fn read<'a>(
        files: impl IntoIterator<Item = (&'a Path, &'a Bytes)>,
        format: DocumentFormat,
    ) -> Result<Self> {
        let (mut columns, mut rows): (Vec<String>, Vec<Vec<(String, Value)>>) = Default::default();
        let mut first = None;
        for (file, bytes) in files {
            first = first.or(Some(file));
            let read = match format {
                DocumentFormat::Csv { delimiter } => read_table(file, bytes, delimiter)?,
                _ => read_rows(file, bytes)?,
            };
            let row = |(_, row): (_, RawRow)| match row {
                RawRow::Columns(columns) => Columns::into_pairs(columns),
                RawRow::Text(text) => vec![("text".to_owned(), Value::from(text))],
            };
            let mut own: Vec<Vec<(String, Value)>> = read.into_iter().map(row).collect();
            if matches!(format, DocumentFormat::Csv { .. }) {
                type_columns(&mut own);
            }
            for (name, _) in own.iter().flatten() {
                if !columns.contains(name) {
                    columns.push(name.clone());
                }
            }
            rows.append(&mut own);
        }
        if rows.is_empty() {
            return Err(Error::EmptyData { file: first.unwrap_or(Path::new("")).into() });
        }
        for name in &columns {
            unify_numbers(&mut rows, name);
        }
        let whole = |row: Vec<(String, Value)>| {
            let value = |name: &String| {
                let found = row.iter().find(|(own, _)| own == name);
                (name.clone(), found.map_or(Value::from(()), |(_, value)| value.clone()))
            };
            Value::from_pairs(columns.iter().map(value))
        };
        let rows = rows.into_iter().map(whole).collect();
        Ok(Self { columns, rows })
    }
}

/// A column has one type of numbers: integers become floats where some of it are floats.
fn unify_numbers(rows: &mut [Vec<(String, Value)>], name: &str) {
    let is_float = |value: &Value| value.kind() == ValueKind::Number && !value.is_integer();
    let own = |row: &[(String, Value)]| row.iter().position(|(own, _)| own == name);
    if !rows.iter().any(|row| own(row).is_some_and(|at| is_float(&row[at].1))) {
        return;
    }
    for row in rows {
        if let Some(at) = own(row)
            && let Some(integer) = Some(&row[at].1).filter(|x| x.is_integer())
            && let Ok(float) = f64::try_from(integer.clone())
        {
            row[at].1 = Value::from(float);
        }
    }
}

/// Gives the columns of a table the types that pandas finds: integers (floats if one is missing),
/// floats, truth values (if none is missing), or text.
fn type_columns(rows: &mut [Vec<(String, Value)>]) {
    let width = rows.first().map_or(0, Vec::len);
    for column in 0..width {
        let cell = |row: &Vec<(String, Value)>| {
            let text = row.get(column).and_then(|(_, value)| value.as_str().map(str::to_owned));
            text.filter(|text| !MISSING.contains(&text.as_str()) && text != "null")
        };
        let cells: Vec<Option<String>> = rows.iter().map(cell).collect();
        let some = || cells.iter().flatten().map(|text| text.trim_matches(' '));
        let is_whole = !cells.contains(&None);
        let truth = |text: &str| match text {
            "True" | "TRUE" | "true" => Some(true),
            "False" | "FALSE" | "false" => Some(false),
            _ => None,
        };
        let typed: Box<dyn Fn(&str) -> Value> = match () {
            () if some().next().is_none() => Box::new(|_| Value::from(())),
            () if is_whole && some().all(|text| text.parse::<i64>().is_ok()) => {
                Box::new(|text| Value::from(text.trim_matches(' ').parse::<i64>().unwrap_or(0)))
            }
            () if some().all(|text| number(text).is_some()) => {
                Box::new(|text| Value::from(number(text.trim_matches(' '))))
            }
            () if is_whole && some().all(|text| truth(text).is_some()) => {
                Box::new(move |text| Value::from(truth(text.trim_matches(' '))))
            }
            () => Box::new(|text| Value::from(text)),
        };
        for (row, cell) in rows.iter_mut().zip(&cells) {
            row[column].1 = cell.as_deref().map_or(Value::from(()), &typed);
        }
    }
}

/// A number as pandas reads it.
fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|_| text.contains(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn read(name: &str, text: &str, format: DocumentFormat) -> Vec<String> {
        let bytes = Bytes::Owned(Arc::new(text.as_bytes().to_vec()));
        let documents = Documents::read([(Path::new(name), &bytes)], format).unwrap();
        documents.rows.iter().map(crate::data::python_str).collect()
    }

    /// As `datasets.load_dataset("csv")` and `("json")` give them.
    #[test]
    fn columns_have_one_type() {
        let table = "a,b,c,d,e,f\n1,1,0.5,True,x,\n-2,,3,False,1,NA\n";
        assert_eq!(
            read("x.csv", table, DocumentFormat::Csv { delimiter: b',' }),
            [
                "{'a': 1, 'b': 1.0, 'c': 0.5, 'd': True, 'e': 'x', 'f': None}",
                "{'a': -2, 'b': None, 'c': 3.0, 'd': False, 'e': '1', 'f': None}",
            ]
        );
        let lines = "{\"a\": 1, \"b\": [1]}\n{\"a\": 2.5, \"c\": \"1\"}\n";
        assert_eq!(
            read("x.jsonl", lines, DocumentFormat::Json),
            ["{'a': 1.0, 'b': [1], 'c': None}", "{'a': 2.5, 'b': None, 'c': '1'}"]
        );
    }
}
