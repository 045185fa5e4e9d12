//! Judges SQL queries by what they return: a query and its reference run on the same small
//! database, and their results are compared.

mod database;
mod results;

pub(crate) use database::Database;
use results::same;

use crate::error::Result;
use crate::interrupt;

/// The outcome of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Right,
    /// It returns something else than the reference.
    Wrong,
    /// It does not run: SQLite's message.
    Failed(String),
}

/// Runs `query` and `reference` on `database`. Rows are compared in order if the reference orders
/// them; columns may be in any order.
///
/// # Errors
/// A database that cannot be opened or a reference that does not run, as a text;
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub(crate) fn judge(
    database: &Database,
    reference: &str,
    query: &str,
) -> Result<std::result::Result<Outcome, String>> {
    let outcome = database.open().and_then(|mut open| {
        let expected = open.run(reference);
        let expected =
            expected.map_err(|reason| format!("its own query does not run: {reason}"))?;
        Ok(match open.run(query) {
            Err(reason) => Outcome::Failed(reason),
            Ok(found) if same(&expected, &found, orders(reference)) => Outcome::Right,
            Ok(_) => Outcome::Wrong,
        })
    });
    // A query that was stopped did not fail.
    interrupt::check()?;
    Ok(outcome)
}

/// Whether the order of the rows counts.
fn orders(reference: &str) -> bool {
    reference.to_lowercase().contains("order by")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETUP: &str = "CREATE TABLE t(a INTEGER, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'y'), (2, NULL);";

    fn judged(reference: &str, query: &str) -> Outcome {
        judge(&Database::Script(SETUP.into()), reference, query).unwrap().unwrap()
    }

    #[test]
    fn queries_are_judged_by_what_they_return() {
        for (reference, query, right) in [
            ("SELECT a FROM t", "select t.a from t where 1;", true),
            ("SELECT a FROM t", "SELECT a FROM t ORDER BY a DESC", true),
            ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC", false),
            ("SELECT a, b FROM t", "SELECT b, a FROM t", true),
            ("SELECT a, b FROM t", "SELECT a, 'x' FROM t", false),
            ("SELECT a FROM t", "SELECT DISTINCT a FROM t", false),
            ("SELECT COUNT(*) FROM t", "SELECT 4.0", true),
            ("SELECT COUNT(*) FROM t", "SELECT '4'", false),
            ("SELECT b FROM t WHERE a = 9", "SELECT a, b FROM t WHERE a = 10", true),
            ("SELECT a, a FROM t", "SELECT a, b FROM t", false),
            ("SELECT MAX(a), MIN(a) FROM t", "SELECT MIN(a), MAX(a) FROM t", true),
        ] {
            let expected = if right { Outcome::Right } else { Outcome::Wrong };
            assert_eq!(judged(reference, query), expected, "{reference} / {query}");
        }
    }

    #[test]
    fn a_query_only_reads_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.db").display().to_string();
        for (query, reason) in [
            ("SELECT c FROM t", "no such column: c"),
            ("", "it is empty"),
            ("DELETE FROM t", "not authorized"),
            ("DROP TABLE t", "not authorized"),
            ("PRAGMA user_version = 1", "not authorized"),
            ("SELECT 1; SELECT 2", "Multiple statements"),
            ("SELECT load_extension('x')", "not authorized"),
            (&format!("ATTACH '{file}' AS x"), "not authorized"),
            (&format!("VACUUM INTO '{file}'"), "authorization denied"),
            ("SELECT * FROM pragma_database_list", "not authorized"),
            (
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
                "takes too long",
            ),
            ("SELECT zeroblob(1000000000)", "too big"),
            ("SELECT randomblob(1000000) FROM t a, t b, t c, t d", "more than"),
            ("SELECT 1 FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j", "more than"),
        ] {
            let Outcome::Failed(found) = judged("SELECT 1", query) else { panic!("{query}") };
            assert!(found.contains(reason), "{query}: {found}");
        }
        assert!(!std::fs::exists(file).unwrap());
    }

    #[test]
    fn a_bad_database_or_reference_is_an_error() {
        let reason = |setup: &str, reference: &str| {
            judge(&Database::Script(setup.into()), reference, "SELECT 1").unwrap().unwrap_err()
        };
        assert!(reason(SETUP, "SELECT c FROM t").contains("its own query does not run"));
        assert!(reason("CREATE", "SELECT 1").contains("incomplete input"));
        assert!(reason("ATTACH 'x.db' AS x", "SELECT 1").contains("not authorized"));
        let missing = Database::File("missing.sqlite".into());
        assert!(judge(&missing, "SELECT 1", "SELECT 1").unwrap().is_err());
    }
}
