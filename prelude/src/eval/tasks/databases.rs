//! The databases of a task whose answers are queries: the key `database`, which the harness does
//! not have, and the column `schema`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use minijinja::value::Value;

use super::documents::{find, with_columns};
use super::keys::{Keys, bad};
use super::metric_list::{EXECUTION, Measure, Metric};
use crate::data::Documents;
use crate::error::Result;
use crate::eval::sql::Database;

/// Where the database of a document is.
#[derive(Clone, Debug)]
pub(super) enum Databases {
    /// A column has the statements that make it.
    Script(String),
    /// The directory has `NAME/NAME.sqlite`, where `NAME` is the column `db_id`, as Spider has.
    Directory(PathBuf),
}

/// The column that names a database in a directory, and the one that is added.
const NAME: &str = "db_id";
const SCHEMA: &str = "schema";

/// Reads `database`.
///
/// # Errors
/// It names no place, or several; it is missing for a metric that needs it, or there is no such
/// metric.
pub(super) fn databases(keys: &mut Keys<'_>, metrics: &[Metric]) -> Result<Option<Databases>> {
    const FORMS: &str = "write database: {script: COLUMN} or database: {directory: PATH}";
    let needs = metrics.iter().any(|metric| metric.measure == Measure::Execution);
    let Some(value) = keys.take("database") else {
        return if needs {
            Err(keys.bad("database", format!("{EXECUTION} needs it"), FORMS))
        } else {
            Ok(None)
        };
    };
    if !needs {
        let hint = format!("add the metric {EXECUTION}, or remove the key");
        return Err(keys.bad("database", "no metric runs queries on it", hint));
    }
    let mut inside = Keys::within(keys.file, "database", &value)?;
    let found = match (inside.text("script")?, inside.text("directory")?) {
        (Some(column), None) => Databases::Script(column),
        (None, Some(directory)) => Databases::Directory(find(keys.file, &directory)?),
        _ => return Err(keys.bad("database", "it names no place, or two", FORMS)),
    };
    inside.finish()?;
    Ok(Some(found))
}

impl Databases {
    /// The database of a document.
    ///
    /// # Errors
    /// The document does not name one, as a text.
    pub fn of(&self, document: &Value) -> Result<Database, String> {
        let column = match self {
            Self::Script(column) => column,
            Self::Directory(_) => NAME,
        };
        let value = document.get_attr(column).ok();
        let value = value.as_ref().and_then(Value::as_str);
        let text = value.ok_or_else(|| format!("it has no text in the column `{column}`"))?;
        match self {
            Self::Script(_) => Ok(Database::Script(text.to_owned())),
            Self::Directory(directory) => {
                let mut parts = Path::new(text).components();
                let is_name = matches!(parts.next(), Some(Component::Normal(_)));
                if !is_name || parts.next().is_some() {
                    return Err(format!("`{text}` is not the name of a database"));
                }
                Ok(Database::File(directory.join(text).join(format!("{text}.sqlite"))))
            }
        }
    }

    /// Adds the column `schema` to documents that lack it: the statements that create the tables.
    ///
    /// # Errors
    /// A database that is missing or cannot be read, with its document.
    pub fn with_schemas(
        &self,
        file: &Path,
        split: &str,
        documents: Documents,
    ) -> Result<Documents> {
        if documents.columns.iter().any(|column| column == SCHEMA) {
            return Ok(documents);
        }
        let mut known: BTreeMap<Database, String> = BTreeMap::new();
        with_columns(documents, |i, row| {
            let mut schema = || -> Result<String, String> {
                let database = self.of(row)?;
                if let Some(schema) = known.get(&database) {
                    return Ok(schema.clone());
                }
                let schema = database.schema()?;
                known.insert(database, schema.clone());
                Ok(schema)
            };
            let schema = schema().map_err(|reason| {
                let hint = "correct the document, or the key database of the task";
                bad(file, format!("document {} of {split}", i + 1), reason, hint)
            })?;
            Ok(vec![(SCHEMA.to_owned(), Value::from(schema))])
        })
    }
}
