//! The settings, which can be changed between steps.

use candle_core::{DType, Device};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Optimizer, Recompute};
use crate::checkpoint::Source;
use crate::device::{Gpu, auto, is_composed, missing_driver, set_group};
use crate::error::{Error, Result, first_line};
use crate::objective::Reduction;

/// The learning rate schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// A constant `lr`.
    #[default]
    Constant,
    /// Linear decay to 0 at `total_steps`.
    Linear,
}

/// The weights of the terms of the objective; 0 disables a term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermWeights {
    /// KL divergence of the merge from each source on the source's data
    /// ([`crate::objective::Distillation::kl`]).
    pub kl: f64,
    /// Mean squared error between their logits ([`crate::objective::Distillation::mse`]).
    pub mse: f64,
    /// Entropy of the merge ([`crate::objective::Distillation::entropy`]).
    pub entropy: f64,
    /// Mean cosine similarity of the coefficients of source pairs ([`crate::objective::cosine`]).
    pub cosine: f64,
    /// L1 norms of the coefficients ([`crate::objective::l1`]).
    pub l1: f64,
    /// L2 norms of the coefficients ([`crate::objective::l2`]).
    pub l2: f64,
    /// Overlap of source pairs in each column ([`crate::objective::overlap`]).
    pub overlap: f64,
    /// The same, weighted by the angle between their task vectors
    /// ([`crate::objective::column_angles`]); needs a base model.
    pub weighted_overlap: f64,
}

impl TermWeights {
    /// Whether any term compares logits, so that the sources run as teachers.
    pub fn compares_logits(&self) -> bool {
        self.kl > 0.0 || self.mse > 0.0 || self.entropy > 0.0
    }
}

/// All settings of the verb `set`. The defaults are those of arXiv 2410.08371.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Learning rate.
    pub lr: f64,
    /// The optimiser of the coefficients.
    pub optimizer: Optimizer,
    /// Decoupled weight decay, per step and unit of learning rate.
    pub weight_decay: f64,
    /// The learning rate schedule after the warm-up.
    pub schedule: Schedule,
    /// The number of warm-up steps, over which the learning rate rises from 0.
    pub warmup: usize,
    /// The step at which the linear schedule ends; 0: after one epoch of the largest data set.
    pub total_steps: usize,
    /// The maximum gradient norm; 0 disables clipping.
    pub clip: f64,
    /// Examples per source per step.
    pub batch_size: usize,
    /// Whether examples are shuffled in every epoch, with the seed, or read in file order.
    pub shuffle: bool,
    /// The maximum number of tokens of an example; longer ones are truncated.
    pub max_length: usize,
    /// The temperature of the KL and entropy terms, which divides the logits.
    pub temperature: f64,
    /// How the KL term is averaged.
    pub reduction: Reduction,
    /// The weights of the objective's terms.
    pub weights: TermWeights,
    /// Teacher logits kept per token; 0: the whole vocabulary.
    pub top_k: usize,
    /// The seed of the order of examples and of a random start.
    pub seed: u64,
    /// Whether the backward pass recomputes layers, to save memory.
    #[serde(default)]
    pub recompute: Recompute,
    /// `auto`, `cpu`, `cuda`, `metal`, or GPUs by number: `cuda:1`, `cuda:0,1` (each runs a share
    /// of the layers).
    pub device: String,
    /// The number of threads; 0: one per core.
    pub threads: usize,
    /// The dtype of the computation: `f32`, on a GPU also `bf16`; `auto`: bf16 on a GPU if any
    /// source is stored in half precision or less, else f32.
    pub dtype: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            optimizer: Optimizer::AdamW,
            weight_decay: 0.0,
            schedule: Schedule::Constant,
            warmup: 0,
            total_steps: 0,
            clip: 1.0,
            batch_size: 1,
            shuffle: true,
            max_length: 2048,
            temperature: 2.0,
            reduction: Reduction::Reference,
            weights: TermWeights {
                kl: 1.0,
                mse: 0.0,
                entropy: 0.0,
                cosine: 0.01,
                l1: 0.0,
                l2: 0.0,
                overlap: 0.0,
                weighted_overlap: 0.0,
            },
            top_k: 0,
            seed: 0,
            recompute: Recompute::Auto,
            device: "auto".into(),
            threads: 0,
            dtype: "auto".into(),
        }
    }
}

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
    /// One of these words, or `cuda:` and the numbers of GPUs.
    Device(&'static [&'static str]),
}

/// The upper limit of integers without one.
const MAX: u64 = 1 << 40;

/// All settings, in the order of the documentation.
pub const SETTINGS: &[Setting] = {
    use Values::{Device, Integer, NonNegative, NotOne, OneOf, Positive, Switch};
    const fn setting(key: &'static str, values: Values, about: &'static str) -> Setting {
        Setting { key, about, values }
    }
    &[
        setting("lr", Positive, "learning rate"),
        setting("optimizer", OneOf(&["adamw", "mofo"]), "optimiser of the coefficients"),
        setting("weight_decay", NonNegative, "decoupled, per step and unit of learning rate"),
        setting(
            "schedule",
            OneOf(&["constant", "linear"]),
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
        setting("reduction", OneOf(&["reference", "token_mean"]), "how the KL term is averaged"),
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
            OneOf(&["auto", "on", "off"]),
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
            Values::OneOf(words) | Values::Device(words) => words,
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
            Values::Switch => {
                let is_known = self.words().contains(&value);
                (is_known.then(|| json!(value == "on")), self.words().join(", "))
            }
            Values::OneOf(words) => {
                (words.contains(&value).then(|| json!(value)), words.join(", "))
            }
            Values::Device(words) => {
                let is_known = words.contains(&value) || ordinals(value).is_some();
                (is_known.then(|| json!(value)), format!("{}, cuda:0,1", words.join(", ")))
            }
        };
        read.ok_or_else(|| Error::bad_value(self.key, value, expected))
    }

    /// Its value within all settings in JSON, where weights of terms are nested.
    fn place<'a>(&self, settings: &'a mut Value) -> &'a mut Value {
        let is_weight = settings["weights"].get(self.key).is_some();
        let within = if is_weight { &mut settings["weights"] } else { settings };
        &mut within[self.key]
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

    /// Returns the learning rate of step `step` (from 0) in a run of `total` steps.
    pub fn lr_at(&self, step: usize, total: usize) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        match self.schedule {
            Schedule::Constant => self.lr,
            Schedule::Linear => {
                let left = total.saturating_sub(step) as f64
                    / total.saturating_sub(self.warmup).max(1) as f64;
                self.lr * left.min(1.0)
            }
        }
    }

    /// Opens the device of the computation; of several GPUs, all, which then share the layers of
    /// models, and returns the first.
    ///
    /// # Errors
    /// A device that is not available in this build or on this machine.
    pub fn open_device(&self) -> Result<Device> {
        let open = |gpu: Gpu, ordinal| {
            let missing = |reason: String| Error::Device { device: self.device.clone(), reason };
            gpu.open(ordinal).map_err(|error| missing(first_line(&error)))
        };
        let devices = match self.device.as_str() {
            "cpu" => vec![Device::Cpu],
            "cuda" => vec![open(Gpu::Cuda, 0)?],
            "metal" => vec![open(Gpu::Metal, 0)?],
            "auto" => vec![auto().0],
            numbered => {
                let numbers = ordinals(numbered).unwrap_or_default().into_iter();
                numbers.map(|ordinal| open(Gpu::Cuda, ordinal)).collect::<Result<_>>()?
            }
        };
        set_group(&devices);
        Ok(devices.into_iter().next().unwrap_or(Device::Cpu))
    }

    /// Returns the device and the dtype of the computation for `sources`.
    ///
    /// # Errors
    /// As for [`Settings::open_device`], or a dtype that the device does not support.
    pub fn device_and_dtype(&self, sources: &[Source]) -> Result<(Device, DType)> {
        let device = self.open_device()?;
        let dtype = match self.dtype.as_str() {
            "bf16" => DType::BF16,
            "auto" if !device.is_cpu() && sources.iter().any(|s| s.dtype() != DType::F32) => {
                DType::BF16
            }
            _ => DType::F32,
        };
        if !is_composed(&device) && dtype != DType::F32 {
            return Err(Error::bad_value("dtype", &self.dtype, "f32 on the CPU; bf16 needs a GPU"));
        }
        Ok((device, dtype))
    }

    /// Returns why `device=auto` is the CPU in a build that supports a GPU.
    pub(crate) fn device_note(&self) -> Option<String> {
        let (_, reason) = (self.device == "auto").then(auto)?;
        reason.map(|reason| format!("this runs on the CPU, without a GPU: {reason}"))
    }

    /// Returns the same for a merge that needs no device until it is scored: its note opens none.
    pub(crate) fn driver_note(&self) -> Option<String> {
        let reason = (self.device == "auto").then(missing_driver)?;
        reason.map(|reason| format!("scores are computed on the CPU, without a GPU: {reason}"))
    }
}

/// Reads the numbers of GPUs in `cuda:0,1`, each once.
fn ordinals(device: &str) -> Option<Vec<usize>> {
    let numbers = device.strip_prefix("cuda:")?.split(',');
    let numbers: Vec<usize> = numbers.map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let is_repeated = |(i, n): (usize, &usize)| numbers[..i].contains(n);
    (!numbers.iter().enumerate().any(is_repeated)).then_some(numbers)
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
    fn gpus_are_named_by_number() {
        let mut settings = Settings::default();
        for (device, numbers) in [("cuda:0", vec![0]), ("cuda:2,0", vec![2, 0])] {
            settings.set("device", device).unwrap();
            assert_eq!(ordinals(&settings.device), Some(numbers));
        }
        for device in ["cuda:", "cuda:0,", "cuda:a", "cuda:0,0", "cuda:-1", "cuda0", "metal:0"] {
            assert!(settings.set("device", device).is_err(), "{device}");
        }
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

    #[test]
    fn the_cpu_is_explained_only_where_a_gpu_was_possible() {
        let mut settings = Settings::default();
        let (device, _) = settings.device_and_dtype(&[]).unwrap();
        let is_supported = cfg!(any(feature = "cuda", feature = "metal"));
        assert_eq!(settings.device_note().is_some(), is_supported && device.is_cpu());
        settings.set("device", "cpu").unwrap();
        assert_eq!(settings.device_note(), None);
    }

    #[test]
    fn schedules_warm_up_and_decay() {
        let settings =
            Settings { lr: 1.0, warmup: 2, schedule: Schedule::Linear, ..Default::default() };
        let rates: Vec<f64> = (0..7).map(|step| settings.lr_at(step, 6)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
    }
}
