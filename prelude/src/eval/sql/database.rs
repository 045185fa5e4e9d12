//! Databases that queries of a model run on. They and the queries come from downloads and models:
//! nothing is written, and time, memory and results are limited.

use std::path::PathBuf;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::results::{Cell, Rows};
use crate::interrupt;

/// The maximum size in bytes of a value, and of a statement.
const VALUE_BYTES: i32 = 1 << 20;

/// The maximum number of rows of a result, and of bytes of its values.
const ROWS: usize = 100_000;
const RESULT_BYTES: usize = 64 << 20;

/// The maximum memory of all databases in bytes.
const HEAP_BYTES: i64 = 512 << 20;

/// The maximum number of SQLite's instructions for a statement: several seconds.
const INSTRUCTIONS: u64 = 200_000_000;
const BETWEEN_CHECKS: i32 = 10_000;

/// The maximum size of a schema in bytes.
const SCHEMA_BYTES: usize = 1 << 16;

/// A database for questions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Database {
    /// The statements that make it, in memory.
    Script(String),
    /// A file of SQLite.
    File(PathBuf),
}

/// An opened database, which is only read.
pub(super) struct Open(Connection);

impl Database {
    /// Opens it.
    ///
    /// # Errors
    /// SQLite's message.
    pub(super) fn open(&self) -> Result<Open, String> {
        let opened = match self {
            Self::Script(script) => Connection::open_in_memory()
                .and_then(limited)
                .and_then(|connection| connection.execute_batch(script).map(|()| connection)),
            Self::File(file) if !file.is_file() => {
                return Err(format!("there is no file {}", file.display()));
            }
            Self::File(file) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                    | OpenFlags::SQLITE_OPEN_URI
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(address(file)?, flags).and_then(limited)
            }
        };
        let mut connection = opened.map_err(|e| reason(&e))?;
        connection.authorizer(Some(only_reads)).map_err(|e| reason(&e))?;
        Ok(Open(connection))
    }

    /// The statements that create its tables, one per line.
    ///
    /// # Errors
    /// SQLite's message, or a schema that is too large.
    pub(crate) fn schema(&self) -> Result<String, String> {
        const TABLES: &str = "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid";
        let mut open = self.open()?;
        let tables = open.run(TABLES)?;
        let mut schema = String::new();
        for table in tables.iter().flatten() {
            if let Cell::Text(sql) = table {
                let separator = if schema.is_empty() { "" } else { "\n" };
                schema += &format!("{separator}{};", String::from_utf8_lossy(sql));
            }
        }
        match schema.len() {
            bytes if bytes > SCHEMA_BYTES => Err(format!("its schema has {bytes} bytes")),
            _ => Ok(schema),
        }
    }
}

/// The address of a file that is read as it is, without a journal.
fn address(file: &std::path::Path) -> Result<String, String> {
    let path = std::path::absolute(file).map_err(|e| e.to_string())?;
    let path = path.to_str().ok_or("its path is not Unicode")?;
    let escaped = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Ok(format!("file:{escaped}?immutable=1"))
}

fn limited(mut connection: Connection) -> rusqlite::Result<Connection> {
    connection.pragma_update(None, "hard_heap_limit", HEAP_BYTES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, VALUE_BYTES),
        (Limit::SQLITE_LIMIT_COLUMN, 500),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.authorizer(Some(no_files))?;
    limit_time(&mut connection)?;
    Ok(connection)
}

/// Stops what follows after [`INSTRUCTIONS`], or when the user stops.
fn limit_time(connection: &mut Connection) -> rusqlite::Result<()> {
    let mut done = 0;
    let stops = move || {
        done += BETWEEN_CHECKS as u64;
        done > INSTRUCTIONS || interrupt::requested()
    };
    connection.progress_handler(BETWEEN_CHECKS, Some(stops))
}

/// What a script may do: all but reach files and settings.
fn no_files(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Attach { .. } | AuthAction::Detach { .. } | AuthAction::Pragma { .. } => {
            Authorization::Deny
        }
        AuthAction::Function { function_name } if reaches_files(function_name) => {
            Authorization::Deny
        }
        _ => Authorization::Allow,
    }
}

fn only_reads(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => {
            Authorization::Allow
        }
        AuthAction::Function { function_name } if !reaches_files(function_name) => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

fn reaches_files(function: &str) -> bool {
    ["load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"]
        .iter()
        .any(|name| function.eq_ignore_ascii_case(name))
}

impl Open {
    /// Runs one statement.
    ///
    /// # Errors
    /// SQLite's message, or a result that is too large.
    pub(super) fn run(&mut self, query: &str) -> Result<Rows, String> {
        if query.trim().is_empty() {
            return Err("it is empty".into());
        }
        limit_time(&mut self.0).and_then(|()| self.read(query)).map_err(|e| reason(&e))?
    }

    fn read(&self, query: &str) -> rusqlite::Result<Result<Rows, String>> {
        let mut statement = self.0.prepare(query)?;
        let columns = statement.column_count();
        let mut found = statement.query([])?;
        let (mut rows, mut bytes) = (Rows::new(), 0);
        while let Some(row) = found.next()? {
            let cell = |column| row.get_ref(column).map(cell);
            let cells = (0..columns).map(cell).collect::<rusqlite::Result<Vec<Cell>>>()?;
            bytes += cells.iter().map(Cell::bytes).sum::<usize>();
            rows.push(cells);
            if rows.len() > ROWS || bytes > RESULT_BYTES {
                let megabytes = RESULT_BYTES >> 20;
                return Ok(Err(format!("it returns more than {ROWS} rows or {megabytes} MB")));
            }
        }
        Ok(Ok(rows))
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(integer) => Cell::Integer(integer),
        ValueRef::Real(real) => Cell::real(real),
        ValueRef::Text(text) => Cell::Text(text.to_vec()),
        ValueRef::Blob(blob) => Cell::Blob(blob.to_vec()),
    }
}

fn reason(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::OperationInterrupted) => "it takes too long".into(),
        _ => error.to_string(),
    }
}
