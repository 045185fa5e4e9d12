//! The schemes that verbs and saved sessions know by name.

use std::sync::Arc;

use super::{COLUMNS, Columns, Heads, LowRank, PerLayer, PerTensor, Rows, RowsColumns, Scheme, Softmax, Task};
use crate::error::{Error, Result};

/// A scheme by its name.
pub struct Builtin {
    /// As [`Scheme::name`] gives it.
    pub name: &'static str,
    /// Its settings with their defaults, as in `[rank=4]`.
    pub usage: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// The names of its settings.
    pub keys: &'static [&'static str],
    /// As one writes it in Rust; of one with settings, which are its fields, its type.
    pub rust: &'static str,
    /// Makes it.
    pub build: Build,
}

/// The scheme with settings that are given by name, each of its keys; the others are as by default.
pub type Build = fn(&[(&str, &str)]) -> Result<Arc<dyn Scheme>>;

/// A scheme without settings.
macro_rules! plain {
    ($name:expr, $about:literal, $scheme:expr) => {
        Builtin { name: $name, usage: "", about: $about, keys: &[], rust: stringify!($scheme), build: |_| Ok(Arc::new($scheme)) }
    };
}

/// All of them.
pub const SCHEMES: &[Builtin] = &[
    plain!(COLUMNS, "a coefficient a column: DAM as published", Columns::default()),
    plain!("rows", "a coefficient a row of every matrix of a layer", Rows),
    plain!("rows_columns", "a coefficient an element: one for its row plus one for its column", RowsColumns),
    plain!("tensor", "a coefficient a tensor", PerTensor),
    plain!("layer", "a coefficient a layer", PerLayer),
    plain!("heads", "a coefficient an attention head; columns elsewhere", Heads),
    plain!("softmax", "columns whose coefficients are positive and sum to 1", Softmax),
    plain!("task", "base plus scaled differences from it, a scale a tensor", Task),
    Builtin {
        name: "low_rank",
        usage: "[rank=4]",
        about: "a coefficient an element of every matrix of a layer: the start plus a matrix of low rank",
        keys: &["rank"],
        rust: "LowRank",
        build: low_rank,
    },
];

/// The built-in scheme `name`.
///
/// # Errors
/// An unknown one, with the nearest.
pub fn find(name: &str) -> Result<&'static Builtin> {
    let found = SCHEMES.iter().find(|s| s.name == name);
    found.ok_or_else(|| Error::unknown("scheme", name, SCHEMES.iter().map(|s| s.name)))
}

fn low_rank(settings: &[(&str, &str)]) -> Result<Arc<dyn Scheme>> {
    let mut scheme = LowRank::default();
    for (key, value) in settings {
        let rank = value.parse().ok().filter(|rank| *key == "rank" && (1..=1024).contains(rank));
        scheme.rank = rank.ok_or_else(|| Error::bad_value(key, value, "a whole number from 1 to 1024"))?;
    }
    Ok(Arc::new(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_found_by_the_name_it_has_and_made_from_the_settings_it_says() {
        for builtin in SCHEMES {
            let scheme = (find(builtin.name).unwrap().build)(&[]).unwrap();
            assert_eq!(scheme.name(), builtin.name);
            let settings = scheme.settings();
            assert_eq!(settings.iter().map(|(key, _)| *key).collect::<Vec<_>>(), builtin.keys);
            let again: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
            assert_eq!((builtin.build)(&again).unwrap().settings(), settings);
        }
        assert_eq!((find("low_rank").unwrap().build)(&[("rank", "7")]).unwrap().settings(), [("rank", "7".to_owned())]);
        for rank in ["0", "x", "1025"] {
            assert!((find("low_rank").unwrap().build)(&[("rank", rank)]).is_err());
        }
        assert!(find("colums").err().unwrap().hint().unwrap().contains("columns"));
    }
}
