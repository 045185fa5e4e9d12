//! The table of settings: keys, what they are, their values, and how they are read and written.

use serde_json::{Value, json};

use super::Settings;
use super::device::ordinals;
use crate::error::{Error, Result};

/// One setting.
pub struct Setting {
    /// Its key in the verb `set`.
    pub key: &'static str,
    /// A short description.
    pub about: &'static str,
    /// The allowed values.
    pub values: Values,
}

/// The allowed values of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// A number above 0.
    Positive,
    /// A number of at least 0.
    NonNegative,
    /// An integer in this range.
    Integer(u64, u64),
    /// 0, or an integer of at least 2.
    NotOne,
    /// `on` or `off`.
    Switch,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these words, each a variant of an enum, and the value in Rust.
    Variant(&'static [&'static str], fn(&Settings) -> String),
    /// One of these words, or `cuda:` and the numbers of GPUs.
    Device(&'static [&'static str]),
}

/// The upper limit of integers without one.
const MAX: u64 = 1 << 40;

/// All settings, in the order of the documentation.
pub const SETTINGS: &[Setting] = {
    use Values::{Device, Integer, NonNegative, NotOne, OneOf, Positive, Switch, Variant};
    const fn setting(key: &'static str, values: Values, about: &'static str) -> Setting {
        Setting { key, about, values }
    }
    &[
        setting("lr", Positive, "learning rate"),
        setting(
            "optimizer",
            Variant(&["adamw", "mofo"], |s| format!("Optimizer::{:?}", s.optimizer)),
            "optimiser of the coefficients",
        ),
        setting("weight_decay", NonNegative, "decoupled, per step and unit of learning rate"),
        setting(
            "schedule",
            Variant(&["constant", "linear"], |s| format!("Schedule::{:?}", s.schedule)),
            "learning rate schedule after the warm-up",
        ),
        setting(
            "warmup",
            Integer(0, MAX),
            "number of steps over which the learning rate rises from 0",
        ),
        setting(
            "total_steps",
            Integer(0, MAX),
            "step at which the linear schedule ends; 0: after one epoch of the largest data set",
        ),
        setting("clip", NonNegative, "maximum gradient norm; 0: no clipping"),
        setting("batch_size", Integer(1, 1 << 16), "examples per source per step"),
        setting("shuffle", Switch, "whether examples are shuffled in every epoch"),
        setting(
            "max_length",
            Integer(2, MAX),
            "maximum tokens of an example; longer ones are truncated",
        ),
        setting("temperature", Positive, "temperature of the KL and entropy terms"),
        setting(
            "reduction",
            Variant(&["reference", "token_mean"], |s| format!("Reduction::{:?}", s.reduction)),
            "how the KL term is averaged",
        ),
        setting("kl", NonNegative, "weight of the KL divergence from each source on its own data"),
        setting("mse", NonNegative, "weight of the mean squared error between their logits"),
        setting("entropy", NonNegative, "weight of the entropy of the merge"),
        setting(
            "cosine",
            NonNegative,
            "weight of the cosine similarity of the sources' coefficients",
        ),
        setting("l1", NonNegative, "weight of the L1 norms of the coefficients"),
        setting("l2", NonNegative, "weight of the L2 norms of the coefficients"),
        setting("overlap", NonNegative, "weight of the overlap of source pairs in each column"),
        setting(
            "weighted_overlap",
            NonNegative,
            "overlap weighted by the angle between task vectors; needs a base",
        ),
        // With a single logit, all distributions are equal.
        setting("top_k", NotOne, "teacher logits kept per token; 0: the whole vocabulary"),
        setting(
            "seed",
            Integer(0, u64::MAX),
            "seed of the order of examples and of a random start",
        ),
        setting(
            "recompute",
            Variant(&["auto", "on", "off"], |s| format!("train::Recompute::{:?}", s.recompute)),
            "whether the backward pass recomputes layers, to save memory",
        ),
        setting(
            "device",
            Device(&["auto", "cpu", "cuda", "metal"]),
            "device of the computation; GPUs by number: cuda:1, or cuda:0,1 to share the layers",
        ),
        setting("threads", Integer(0, 1024), "number of threads; 0: one per core"),
        setting(
            "dtype",
            OneOf(&["auto", "f32", "bf16"]),
            "dtype of the computation; bf16 on a GPU; auto: bf16 there for sources in half precision",
        ),
    ]
};

impl Setting {
    /// The setting `key`.
    ///
    /// # Errors
    /// An unknown key; the error names the nearest.
    pub fn find(key: &str) -> Result<&'static Self> {
        let found = SETTINGS.iter().find(|setting| setting.key == key);
        found.ok_or_else(|| Error::unknown("key", key, SETTINGS.iter().map(|s| s.key)))
    }

    /// The words that may be its value; empty for a number.
    pub fn words(&self) -> &'static [&'static str] {
        match self.values {
            Values::Switch => &["on", "off"],
            Values::OneOf(words) | Values::Variant(words, _) | Values::Device(words) => words,
            _ => &[],
        }
    }

    /// Whether `value` is one of its values that are not numbers.
    pub(crate) fn is_word(&self, value: &str) -> bool {
        !self.words().is_empty() && self.read(value).is_ok()
    }

    /// Reads a value.
    fn read(&self, value: &str) -> Result<Value> {
        let real = |open: bool| {
            let x: f64 = value.parse().ok()?;
            (x.is_finite() && x >= 0.0 && !(open && x == 0.0)).then(|| json!(x))
        };
        let integer = |low: u64, high: u64| {
            let n: u64 = value.parse().ok()?;
            (low..=high).contains(&n).then(|| json!(n))
        };
        let (read, expected) = match self.values {
            Values::Positive => (real(true), "a number above 0".to_owned()),
            Values::NonNegative => (real(false), "a number of at least 0".to_owned()),
            Values::Integer(low, high) if high < MAX => {
                (integer(low, high), format!("an integer from {low} to {high}"))
            }
            Values::Integer(low, high) => {
                (integer(low, high), format!("an integer of at least {low}"))
            }
            Values::NotOne => {
                (integer(0, MAX).filter(|n| *n != 1), "0, or an integer of at least 2".to_owned())
            }
            Values::Device(words) => {
                let known = ordinals(value).is_some() || words.contains(&value);
                return known.then(|| json!(value)).ok_or_else(|| {
                    Error::none_of(self.key, value, &[words, &["cuda:0,1"]].concat())
                });
            }
            Values::Switch | Values::OneOf(_) | Values::Variant(..) => {
                let words = self.words();
                if !words.contains(&value) {
                    return Err(Error::none_of(self.key, value, words));
                }
                let is_switch = matches!(self.values, Values::Switch);
                return Ok(if is_switch { json!(value == "on") } else { json!(value) });
            }
        };
        read.ok_or_else(|| Error::bad_value(self.key, value, expected))
    }

    /// Its value within all settings in JSON, where weights of terms are nested.
    fn place<'a>(&self, settings: &'a mut Value) -> &'a mut Value {
        let within = if self.is_weight() { &mut settings["weights"] } else { settings };
        &mut within[self.key]
    }

    /// Whether it is the weight of a term of the loss.
    pub(crate) fn is_weight(&self) -> bool {
        json!(Settings::default())["weights"].get(self.key).is_some()
    }

    /// Its value in `settings` as a Rust expression.
    pub(crate) fn rust(&self, settings: &Settings) -> String {
        let value = self.place(&mut json!(settings)).to_string();
        match self.values {
            Values::Variant(_, rust) => rust(settings),
            Values::OneOf(_) | Values::Device(_) => format!("{value}.into()"),
            _ => value,
        }
    }
}

impl Settings {
    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// An unknown key (the error names the nearest), or a value out of range. Nothing changes then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let setting = Setting::find(key)?;
        let read = setting.read(value)?;
        let mut settings = json!(self);
        *setting.place(&mut settings) = read;
        *self = serde_json::from_value(settings)
            .map_err(|e| Error::bad_value(key, value, e.to_string()))?;
        Ok(())
    }

    /// Returns the value of `key` in the form that `set` accepts.
    pub fn get(&self, key: &str) -> Option<String> {
        let setting = Setting::find(key).ok()?;
        Some(match &*setting.place(&mut json!(self)) {
            Value::Bool(on) => if *on { "on" } else { "off" }.into(),
            Value::String(text) => text.clone(),
            Value::Number(n) if n.is_f64() => n.as_f64().unwrap_or_default().to_string(),
            other => other.to_string(),
        })
    }

    /// Checks all values.
    ///
    /// # Errors
    /// The first value that [`Settings::set`] would reject.
    pub fn check(&self) -> Result<()> {
        let valid = |s: &Setting| s.read(&self.get(s.key).unwrap_or_default()).map(drop);
        SETTINGS.iter().try_for_each(valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let mut settings = Settings::default();
        for Setting { key, .. } in SETTINGS {
            let value = settings.get(key).unwrap();
            settings.set(key, &value).unwrap();
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn settings_have_descriptions_and_accept_all_their_words() {
        for setting in SETTINGS {
            assert!(!setting.about.is_empty(), "{}", setting.key);
            for word in setting.words() {
                Settings::default().set(setting.key, word).unwrap();
            }
            let default = Settings::default().get(setting.key).unwrap();
            assert!(setting.words().is_empty() == default.parse::<f64>().is_ok(), "{default}");
        }
    }

    #[test]
    fn values_keep_their_precision() {
        let mut settings = Settings::default();
        for (key, value) in [("lr", "0.1"), ("l1", "1e-300"), ("seed", "18446744073709551615")] {
            settings.set(key, value).unwrap();
        }
        assert_eq!((settings.lr, settings.weights.l1, settings.seed), (0.1, 1e-300, u64::MAX));
    }

    #[test]
    fn a_rejected_value_changes_nothing() {
        let mut settings = Settings::default();
        for (key, value) in [
            ("lr", "0"),
            ("lr", "nan"),
            ("lr", "-1"),
            ("clip", "inf"),
            ("batch_size", "0"),
            ("batch_size", "65537"),
            ("top_k", "1"),
            ("shuffle", "yes"),
            ("seed", "-1"),
            ("device", "tpu"),
            ("warmup", "1.5"),
            ("weights", "1"),
            ("learning_rate", "1"),
        ] {
            assert!(settings.set(key, value).is_err(), "{key}={value}");
        }
        assert_eq!(settings, Settings::default());
    }
}
