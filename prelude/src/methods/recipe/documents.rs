//! The recipes of one file, as in mergekit-multi. A recipe may use the merge of another by its
//! `name`. The result of the file is the recipe without a name, or else the last.

use std::path::Path;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::Recipe;
use crate::checkpoint::read_file;
use crate::error::{Error, Result};

/// The maximum size of a recipe in bytes.
const MOST: u64 = 1 << 20;

/// All recipes of a file.
pub(crate) struct Documents {
    recipes: Vec<Recipe>,
}

impl Documents {
    /// Reads `file`.
    ///
    /// # Errors
    /// The file is missing, too large, or invalid YAML, or uses an unsupported feature.
    pub fn open(file: &Path) -> Result<Self> {
        let yaml = |reason: String| Error::Yaml { file: file.into(), reason };
        let bytes = match read_file(file, MOST) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidData => {
                return Err(yaml("it is too large for a recipe".into()));
            }
            bytes => bytes?,
        };
        let text = String::from_utf8(bytes).map_err(|e| yaml(e.to_string()))?;
        Self::parse(file, text)
    }

    /// Parses `text`, the content of `file`.
    ///
    /// # Errors
    /// As for [`Documents::open`].
    pub fn parse(file: &Path, text: String) -> Result<Self> {
        let yaml = |reason: String| Error::Yaml { file: file.into(), reason };
        let values: Vec<Value> = documents(&text).map_err(|e| yaml(yaml_reason(&e)))?;
        // Parsed maps are sorted by key, so the order of tokens is read separately.
        let orders: Vec<TokenOrder> = documents(&text).unwrap_or_default();
        if values.is_empty() {
            return Err(yaml("it is empty".into()));
        }
        let order = |i: usize| {
            orders
                .get(i)
                .and_then(|o| o.tokenizer.as_ref()?.tokens.as_ref())
                .map_or(&[][..], |keys| &keys.0)
        };
        let recipes = values
            .iter()
            .enumerate()
            .map(|(i, value)| Recipe::read(file, value, text.clone(), order(i)));
        let recipes: Vec<Recipe> = recipes.collect::<Result<_>>()?;
        let bad = |reason: String, hint: &str| {
            Err(Error::Recipe { file: file.into(), key: "name".into(), reason, hint: hint.into() })
        };
        for (i, recipe) in recipes.iter().enumerate() {
            let same = |other: &Recipe| other.name == recipe.name;
            if recipes[..i].iter().any(same) {
                return match &recipe.name {
                    Some(name) => bad(
                        format!("two recipes are called `{name}`"),
                        "give each recipe a unique name",
                    ),
                    None => bad(
                        "two recipes have no name".into(),
                        "name all recipes except the one whose merge you want",
                    ),
                };
            }
        }
        Ok(Self { recipes })
    }

    /// Returns the recipe whose merge is the result, and the others.
    pub fn last(mut self) -> (Option<Recipe>, Vec<Recipe>) {
        let unnamed = self.recipes.iter().position(|recipe| recipe.name.is_none());
        let last =
            unnamed.or_else(|| self.recipes.len().checked_sub(1)).map(|at| self.recipes.remove(at));
        (last, self.recipes)
    }
}

fn documents<T: serde::de::DeserializeOwned>(
    text: &str,
) -> std::result::Result<Vec<T>, serde_saphyr::Error> {
    // A limited number of aliases prevents nested aliases from expanding without bound.
    let options = serde_saphyr::options! {
        with_snippet: false,
        // Strict booleans, so that a model may be called `y`.
        strict_booleans: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
    };
    serde_saphyr::from_multiple_with_options(text, options)
}

/// Describes a YAML error for users.
fn yaml_reason(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let names_code = first.contains("from_") || first.contains("Options") || first.contains("::");
    if !names_code {
        return first.to_owned();
    }
    let place = error.location().map(|at| format!(" at line {}", at.line())).unwrap_or_default();
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{key}` is given twice{place}")
        }
        _ => format!("invalid syntax{place}"),
    }
}

/// The keys of `tokenizer.tokens` in file order.
#[derive(Deserialize, Default)]
struct TokenOrder {
    #[serde(default)]
    tokenizer: Option<Tokens>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    tokens: Option<Keys>,
}

struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("tokens")
            }

            fn visit_map<M: MapAccess<'de>>(
                self,
                mut map: M,
            ) -> std::result::Result<Keys, M::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
