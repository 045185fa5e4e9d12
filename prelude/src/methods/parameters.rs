//! Parameters of methods: their names and defaults, and what is given for them, as text or in a recipe.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its value where none is given, as one would type it.
    pub default: &'static str,
    /// Whether every source has its own.
    pub scope: Scope,
}

/// What a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every source has its own value.
    Each,
    /// As [`Scope::Each`], and a recipe must say it.
    Needed,
    /// The whole merge has one.
    Whole,
    /// As [`Scope::Whole`], and a recipe must say it.
    NeededWhole,
    /// The whole merge, in verbs only: a recipe says it otherwise.
    Verb,
}

impl Key {
    /// A parameter of its own for every source.
    pub const fn each(name: &'static str, default: &'static str) -> Self {
        Self { name, default, scope: Scope::Each }
    }

    /// A parameter of the whole merge.
    pub const fn whole(name: &'static str, default: &'static str) -> Self {
        Self { name, default, scope: Scope::Whole }
    }

    /// Whether every source has its own value.
    pub fn is_each(&self) -> bool {
        matches!(self.scope, Scope::Each | Scope::Needed)
    }
}

/// How much of each source goes in; recipes must say it.
pub(super) const WEIGHT: Key = Key { name: "weight", default: "1", scope: Scope::Needed };

/// Whether the sum is divided by that of the weights.
pub(super) const NORMALIZE: Key = Key::whole("normalize", "on");

/// Whether the base model takes part where a method does not ask for it.
pub(super) const BASE: Key = Key { name: "base", default: "off", scope: Scope::Verb };

/// Memory that mergekit saves so; no number changes.
pub(super) const INT8_MASK: Key = Key::whole("int8_mask", "off");

/// Values worth trying for a parameter.
pub type Grid = (&'static str, &'static [&'static str]);

/// How much of each task vector is kept.
pub(super) const DENSITIES: Grid = ("density", &["0.2", "0.5", "0.8"]);

/// What the sum of task vectors is multiplied by.
pub(super) const SCALES: Grid = ("lambda", &["0.3", "0.5", "0.7", "1", "1.4", "2"]);

/// What is given for every parameter: one value, or one a source.
#[derive(Clone, Debug, Default)]
pub struct Given(BTreeMap<&'static str, Vec<Value>>);

impl Given {
    /// Reads `pairs` as typed; parameters among `keys` that are not given have their defaults. `weights`
    /// is another name of `weight`.
    ///
    /// # Errors
    /// An unknown key, or values that are no numbers.
    pub fn read(keys: &[Key], pairs: &[(&str, &str)]) -> Result<Self> {
        let mut given = Self::default();
        for key in keys {
            given.0.insert(key.name, typed(key, key.default)?);
        }
        for (name, text) in pairs {
            let name = if *name == "weights" { "weight" } else { name };
            let found = keys.iter().find(|key| key.name == name);
            let key = found.ok_or_else(|| Error::unknown("key", name, keys.iter().map(|key| key.name)))?;
            given.0.insert(key.name, typed(key, text)?);
        }
        Ok(given)
    }

    /// Gives `key` its values.
    pub(super) fn set(&mut self, key: &Key, values: Vec<Value>) {
        self.0.insert(key.name, values);
    }

    /// The numbers given for `key`: one, or one a source.
    ///
    /// # Errors
    /// What is not a number that f32 can hold.
    pub fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let bad = |value: &Value| Error::bad_value(key, &shown(value), "a number, or one for each source, as in 1,0.5,0.5");
        let number = |value: &Value| value.as_f64().filter(|x| (*x as f32).is_finite()).ok_or_else(|| bad(value));
        self.values(key).iter().map(number).collect()
    }

    /// The number given for `key`.
    ///
    /// # Errors
    /// What is not a number that f32 can hold.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.numbers(key)?.as_slice() {
            [number] => Ok(*number),
            _ => Err(Error::bad_value(key, &self.text(key), "one number")),
        }
    }

    /// The whole number given for `key`.
    ///
    /// # Errors
    /// What is not a whole number from 0.
    pub fn count(&self, key: &str) -> Result<u64> {
        let number = self.number(key)?;
        match number >= 0.0 && number.fract() == 0.0 && number <= 9e15 {
            true => Ok(number as u64),
            false => Err(Error::bad_value(key, &self.text(key), "a whole number from 0")),
        }
    }

    /// Whether `key` is on. As in mergekit, a number that is not 0 is.
    ///
    /// # Errors
    /// What is neither.
    pub fn switch(&self, key: &str) -> Result<bool> {
        match self.values(key) {
            [Value::Bool(on)] => Ok(*on),
            [Value::Number(number)] => Ok(number.as_f64() != Some(0.0)),
            _ => Err(Error::bad_value(key, &self.text(key), "on or off")),
        }
    }

    /// Whether there is a value for `key` that is not `none`.
    pub fn has(&self, key: &str) -> bool {
        !self.values(key).iter().all(|value| value == "none")
    }

    /// What is given for `key`, as one would type it.
    pub fn text(&self, key: &str) -> String {
        self.values(key).iter().map(shown).collect::<Vec<_>>().join(",")
    }

    fn values(&self, key: &str) -> &[Value] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}

/// What was typed: numbers, `on` and `off`, or a word, with commas between where every source has its own.
pub(super) fn typed(key: &Key, text: &str) -> Result<Vec<Value>> {
    let one = |text: &str| match (text.trim(), text.trim().parse::<f64>()) {
        ("on" | "true", _) => Ok(json!(true)),
        ("off" | "false", _) => Ok(json!(false)),
        (_, Ok(number)) if number.is_finite() => Ok(json!(number)),
        ("", _) => Err(Error::bad_value(key.name, text, "a number for each source, as in 1,0.5,0.5")),
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

/// The value of source `i` among `values`: one for all, or one a source.
pub(super) fn of(values: &[f64], i: usize) -> f64 {
    *values.get(i).or(values.first()).unwrap_or(&1.0)
}

/// An error where `values` of `key` are neither one nor one for each of `sources`, or not as `fits` says.
pub(super) fn check(key: &str, values: &[f64], sources: usize, fits: impl Fn(f64) -> bool, expected: &str) -> Result<()> {
    let text = || values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    if values.len() > 1 && values.len() != sources {
        return Err(Error::bad_value(key, &text(), format!("{sources} numbers, one for each source, or one for all")));
    }
    match values.iter().all(|x| (*x as f32).is_finite() && fits(*x)) {
        true => Ok(()),
        false => Err(Error::bad_value(key, &text(), expected)),
    }
}

/// [`check`] for weights, which may be any numbers.
pub(super) fn check_weights(values: &[f64], sources: usize) -> Result<()> {
    check("weight", values, sources, |_| true, "numbers that f32 can hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[Key] = &[WEIGHT, NORMALIZE, Key::whole("lambda", "1")];

    #[test]
    fn what_is_typed_is_read() {
        let given = Given::read(KEYS, &[("weights", "1, 0.5,-0.25"), ("normalize", "off")]).unwrap();
        assert_eq!(given.numbers("weight").unwrap(), [1.0, 0.5, -0.25]);
        assert!(!given.switch("normalize").unwrap());
        assert_eq!(given.number("lambda").unwrap(), 1.0);
        for (key, text) in [("weight", "1,x"), ("weight", "1,"), ("weight", "1e60"), ("lambda", "on")] {
            let given = Given::read(KEYS, &[(key, text)]);
            assert!(given.and_then(|given| given.numbers(key)).is_err(), "{key}={text}");
        }
        assert!(Given::read(KEYS, &[("normalize", "maybe")]).unwrap().switch("normalize").is_err());
        assert!(Given::read(KEYS, &[("lambda", "0.5")]).unwrap().count("lambda").is_err());
        assert!(Given::read(KEYS, &[("density", "1")]).is_err());
    }

    #[test]
    fn there_is_one_value_or_one_for_each_source() {
        let at_most_one = |x| x <= 1.0;
        assert!(check("density", &[0.5], 3, at_most_one, "").is_ok());
        assert!(check("density", &[0.5, 1.0], 3, at_most_one, "").is_err());
        assert!(check("density", &[0.5, 1.0, 1.5], 3, at_most_one, "").is_err());
        assert_eq!((of(&[], 1), of(&[0.5], 1), of(&[0.5, 0.25], 1)), (1.0, 0.5, 0.25));
    }
}
