//! Parameters of methods: their names, defaults, and values from text or a recipe.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name.
    pub name: &'static str,
    /// The default value, as typed.
    pub default: &'static str,
    /// Whether every source has its own value.
    pub scope: Scope,
}

/// The scope of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One value per source.
    Each,
    /// Like [`Scope::Each`], but required in recipes.
    Needed,
    /// One value for the whole merge.
    Whole,
    /// Like [`Scope::Whole`], but required in recipes.
    NeededWhole,
    /// One value for the whole merge, in verbs only: recipes express it differently.
    Verb,
}

impl Key {
    /// A parameter with one value per source.
    pub const fn each(name: &'static str, default: &'static str) -> Self {
        Self { name, default, scope: Scope::Each }
    }

    /// A parameter with one value for the whole merge.
    pub const fn whole(name: &'static str, default: &'static str) -> Self {
        Self { name, default, scope: Scope::Whole }
    }

    /// Whether every source has its own value.
    pub fn is_each(&self) -> bool {
        matches!(self.scope, Scope::Each | Scope::Needed)
    }
}

/// The weight of each source; required in recipes.
pub(super) const WEIGHT: Key = Key { name: "weight", default: "1", scope: Scope::Needed };

/// Whether the sum is divided by the sum of the weights.
pub(super) const NORMALIZE: Key = Key::whole("normalize", "on");

/// Whether the base model is used by methods that do not require it.
pub(super) const BASE: Key = Key { name: "base", default: "off", scope: Scope::Verb };

/// Saves memory in mergekit; does not affect the result.
pub(super) const INT8_MASK: Key = Key::whole("int8_mask", "off");

/// Candidate values for tuning a parameter.
pub type Grid = (&'static str, &'static [&'static str]);

/// Candidate densities of task vectors.
pub(super) const DENSITIES: Grid = ("density", &["0.2", "0.5", "0.8"]);

/// Candidate factors of the sum of task vectors.
pub(super) const SCALES: Grid = ("lambda", &["0.3", "0.5", "0.7", "1", "1.4", "2"]);

/// The values of all parameters: one each, or one per source.
#[derive(Clone, Debug, Default)]
pub struct ParameterValues(BTreeMap<&'static str, Vec<Value>>);

impl ParameterValues {
    /// Reads `pairs` as typed; parameters among `keys` without a value have their defaults.
    /// `weights` is accepted for `weight`.
    ///
    /// # Errors
    /// An unknown key, or values that are not numbers.
    pub fn read(keys: &[Key], pairs: &[(&str, &str)]) -> Result<Self> {
        let mut given = Self::default();
        for key in keys {
            given.0.insert(key.name, typed(key, key.default)?);
        }
        for (name, text) in pairs {
            let name = if *name == "weights" { "weight" } else { name };
            let found = keys.iter().find(|key| key.name == name);
            let key = found
                .ok_or_else(|| Error::unknown("key", name, keys.iter().map(|key| key.name)))?;
            given.0.insert(key.name, typed(key, text)?);
        }
        Ok(given)
    }

    /// Sets the values of `key`.
    pub(super) fn set(&mut self, key: &Key, values: Vec<Value>) {
        self.0.insert(key.name, values);
    }

    /// Returns the numbers of `key`: one, or one per source.
    ///
    /// # Errors
    /// A value that is not a number representable in f32.
    pub fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let bad = |value: &Value| {
            Error::bad_value(key, &shown(value), "a number, or one per source, as in 1,0.5,0.5")
        };
        let number = |value: &Value| {
            value.as_f64().filter(|x| (*x as f32).is_finite()).ok_or_else(|| bad(value))
        };
        self.values(key).iter().map(number).collect()
    }

    /// Returns the number of `key`.
    ///
    /// # Errors
    /// A value that is not a number representable in f32.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.numbers(key)?.as_slice() {
            [number] => Ok(*number),
            _ => Err(Error::bad_value(key, &self.text(key), "a single number")),
        }
    }

    /// Returns the non-negative integer of `key`.
    ///
    /// # Errors
    /// A value that is not a non-negative integer.
    pub fn count(&self, key: &str) -> Result<u64> {
        let number = self.number(key)?;
        if number >= 0.0 && number.fract() == 0.0 && number <= 9e15 {
            return Ok(number as u64);
        }
        Err(Error::bad_value(key, &self.text(key), "an integer of at least 0"))
    }

    /// Returns whether `key` is on. As in mergekit, non-zero numbers count as on.
    ///
    /// # Errors
    /// A value that is neither on nor off.
    pub fn switch(&self, key: &str) -> Result<bool> {
        match self.values(key) {
            [Value::Bool(on)] => Ok(*on),
            [Value::Number(number)] => Ok(number.as_f64() != Some(0.0)),
            _ => Err(Error::bad_value(key, &self.text(key), "on or off")),
        }
    }

    /// Whether `key` has a value other than `none`.
    pub fn has(&self, key: &str) -> bool {
        !self.values(key).iter().all(|value| value == "none")
    }

    /// Returns the value of `key`, as typed.
    pub fn text(&self, key: &str) -> String {
        self.values(key).iter().map(shown).collect::<Vec<_>>().join(",")
    }

    fn values(&self, key: &str) -> &[Value] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}

/// Parses a typed value: numbers, `on` and `off`, or a word, separated by commas if every source
/// has its own.
pub(super) fn typed(key: &Key, text: &str) -> Result<Vec<Value>> {
    let one = |text: &str| match (text.trim(), text.trim().parse::<f64>()) {
        ("on" | "true", _) => Ok(json!(true)),
        ("off" | "false", _) => Ok(json!(false)),
        (_, Ok(number)) if number.is_finite() => Ok(json!(number)),
        ("", _) => Err(Error::bad_value(key.name, text, "one number per source, as in 1,0.5,0.5")),
        (word, _) => Ok(json!(word)),
    };
    if key.is_each() { text.split(',').map(one).collect() } else { Ok(vec![one(text)?]) }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bool(true) => "on".into(),
        Value::Bool(false) => "off".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns the value of source `i` among `values`: one for all, or one per source.
pub(super) fn of(values: &[f64], i: usize) -> f64 {
    *values.get(i).or(values.first()).unwrap_or(&1.0)
}

/// Checks that `key` has one value or one per source, and that each satisfies `fits`.
pub(super) fn check(
    key: &str,
    values: &[f64],
    sources: usize,
    fits: impl Fn(f64) -> bool,
    expected: &str,
) -> Result<()> {
    let text = || values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    if values.len() > 1 && values.len() != sources {
        return Err(Error::bad_value(
            key,
            &text(),
            format!("{sources} numbers, one per source, or one for all"),
        ));
    }
    if !values.iter().all(|x| (*x as f32).is_finite() && fits(*x)) {
        return Err(Error::bad_value(key, &text(), expected));
    }
    Ok(())
}

/// Applies [`check`] to weights, which may be any numbers.
pub(super) fn check_weights(values: &[f64], sources: usize) -> Result<()> {
    check("weight", values, sources, |_| true, "numbers representable in f32")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[Key] = &[WEIGHT, NORMALIZE, Key::whole("lambda", "1")];

    #[test]
    fn parses_typed_values() {
        let given =
            ParameterValues::read(KEYS, &[("weights", "1, 0.5,-0.25"), ("normalize", "off")])
                .unwrap();
        assert_eq!(given.numbers("weight").unwrap(), [1.0, 0.5, -0.25]);
        assert!(!given.switch("normalize").unwrap());
        assert_eq!(given.number("lambda").unwrap(), 1.0);
        for (key, text) in
            [("weight", "1,x"), ("weight", "1,"), ("weight", "1e60"), ("lambda", "on")]
        {
            let given = ParameterValues::read(KEYS, &[(key, text)]);
            assert!(given.and_then(|given| given.numbers(key)).is_err(), "{key}={text}");
        }
        assert!(
            ParameterValues::read(KEYS, &[("normalize", "maybe")])
                .unwrap()
                .switch("normalize")
                .is_err()
        );
        assert!(
            ParameterValues::read(KEYS, &[("lambda", "0.5")]).unwrap().count("lambda").is_err()
        );
        assert!(ParameterValues::read(KEYS, &[("density", "1")]).is_err());
    }

    #[test]
    fn accepts_one_value_or_one_per_source() {
        let at_most_one = |x| x <= 1.0;
        assert!(check("density", &[0.5], 3, at_most_one, "").is_ok());
        assert!(check("density", &[0.5, 1.0], 3, at_most_one, "").is_err());
        assert!(check("density", &[0.5, 1.0, 1.5], 3, at_most_one, "").is_err());
        assert_eq!((of(&[], 1), of(&[0.5], 1), of(&[0.5, 0.25], 1)), (1.0, 0.5, 0.25));
    }
}
