//! The built-in schemes, selected by name in verbs and saved sessions.

use std::sync::Arc;

use super::{
    COLUMNS, Columns, Heads, LowRank, PerLayer, PerTensor, Rows, RowsColumns, Scheme, Softmax, Task,
};
use crate::error::{Error, Result};

/// A named scheme.
pub struct Builtin {
    /// The name, equal to [`Scheme::name`].
    pub name: &'static str,
    /// The settings with their defaults, as in `[rank=4]`.
    pub usage: &'static str,
    /// A one-line description.
    pub about: &'static str,
    /// The names of the settings.
    pub keys: &'static [&'static str],
    /// The Rust expression of the scheme; for one with settings (its fields), the type.
    pub rust: &'static str,
    /// Builds the scheme.
    pub build: Build,
}

/// Builds a scheme from settings given by name. Missing settings have their defaults.
pub type Build = fn(&[(&str, &str)]) -> Result<Arc<dyn Scheme>>;

/// A scheme without settings.
macro_rules! plain {
    ($name:expr, $about:literal, $scheme:expr) => {
        Builtin {
            name: $name,
            usage: "",
            about: $about,
            keys: &[],
            rust: stringify!($scheme),
            build: |_| Ok(Arc::new($scheme)),
        }
    };
}

/// All built-in schemes.
pub const SCHEMES: &[Builtin] = &[
    plain!(COLUMNS, "one coefficient per column: DAM as published", Columns::default()),
    plain!("rows", "one coefficient per row of each matrix in a layer", Rows),
    plain!(
        "rows_columns",
        "one coefficient per element: a row term plus a column term",
        RowsColumns
    ),
    plain!("tensor", "one coefficient per tensor", PerTensor),
    plain!("layer", "one coefficient per layer", PerLayer),
    plain!("heads", "one coefficient per attention head; columns elsewhere", Heads),
    plain!("softmax", "columns whose coefficients are positive and sum to 1", Softmax),
    plain!("task", "the base plus scaled task vectors, one scale per tensor", Task),
    Builtin {
        name: "low_rank",
        usage: "[rank=4]",
        about: "one coefficient per element of each matrix in a layer: the start plus a low-rank matrix",
        keys: &["rank"],
        rust: "LowRank",
        build: low_rank,
    },
];

/// Returns the built-in scheme `name`.
///
/// # Errors
/// An unknown name; the error names the nearest.
pub fn find(name: &str) -> Result<&'static Builtin> {
    let found = SCHEMES.iter().find(|s| s.name == name);
    found.ok_or_else(|| Error::unknown("scheme", name, SCHEMES.iter().map(|s| s.name)))
}

fn low_rank(settings: &[(&str, &str)]) -> Result<Arc<dyn Scheme>> {
    let mut scheme = LowRank::default();
    for (key, value) in settings {
        let rank = value.parse().ok().filter(|rank| *key == "rank" && (1..=1024).contains(rank));
        scheme.rank =
            rank.ok_or_else(|| Error::bad_value(key, value, "an integer from 1 to 1024"))?;
    }
    Ok(Arc::new(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_built_from_their_name_and_settings() {
        for builtin in SCHEMES {
            let scheme = (find(builtin.name).unwrap().build)(&[]).unwrap();
            assert_eq!(scheme.name(), builtin.name);
            let settings = scheme.settings();
            assert_eq!(settings.iter().map(|(key, _)| *key).collect::<Vec<_>>(), builtin.keys);
            let again: Vec<(&str, &str)> =
                settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
            assert_eq!((builtin.build)(&again).unwrap().settings(), settings);
        }
        assert_eq!(
            (find("low_rank").unwrap().build)(&[("rank", "7")]).unwrap().settings(),
            [("rank", "7".to_owned())]
        );
        for rank in ["0", "x", "1025"] {
            assert!((find("low_rank").unwrap().build)(&[("rank", rank)]).is_err());
        }
        assert!(find("colums").err().unwrap().hint().unwrap().contains("columns"));
    }
}
