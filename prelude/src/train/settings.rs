//! The settings, which can be changed between steps.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::{Optimizer, Recompute};
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
    /// `auto`, `cpu`, `cuda` or `metal`.
    pub device: String,
    /// The number of threads; 0: one per core.
    pub threads: usize,
    /// The dtype of the merged model: `f32`, or on a GPU `bf16` or `f16`.
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
            dtype: "f32".into(),
        }
    }
}

/// The keys of the verb `set`, in the order of the documentation.
pub const KEYS: [&str; 26] = [
    "lr",
    "optimizer",
    "weight_decay",
    "schedule",
    "warmup",
    "total_steps",
    "clip",
    "batch_size",
    "shuffle",
    "max_length",
    "temperature",
    "reduction",
    "kl",
    "mse",
    "entropy",
    "cosine",
    "l1",
    "l2",
    "overlap",
    "weighted_overlap",
    "top_k",
    "seed",
    "recompute",
    "device",
    "threads",
    "dtype",
];

const OPTIMIZERS: [(&str, Optimizer); 2] = [("adamw", Optimizer::AdamW), ("mofo", Optimizer::Mofo)];
const SCHEDULES: [(&str, Schedule); 2] =
    [("constant", Schedule::Constant), ("linear", Schedule::Linear)];
const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];
const REDUCTIONS: [(&str, Reduction); 2] =
    [("reference", Reduction::Reference), ("token_mean", Reduction::TokenMean)];
const RECOMPUTE: [(&str, Recompute); 3] =
    [("auto", Recompute::Auto), ("on", Recompute::On), ("off", Recompute::Off)];
const DEVICES: [(&str, &str); 4] =
    [("auto", "auto"), ("cpu", "cpu"), ("cuda", "cuda"), ("metal", "metal")];
const DTYPES: [(&str, &str); 3] = [("f32", "f32"), ("bf16", "bf16"), ("f16", "f16")];

/// Returns the allowed values of `key`; empty for a number.
pub fn choices(key: &str) -> Vec<&'static str> {
    fn names<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
        choices.iter().map(|(name, _)| *name).collect()
    }
    match key {
        "optimizer" => names(&OPTIMIZERS),
        "schedule" => names(&SCHEDULES),
        "shuffle" => names(&SWITCH),
        "reduction" => names(&REDUCTIONS),
        "recompute" => names(&RECOMPUTE),
        "device" => names(&DEVICES),
        "dtype" => names(&DTYPES),
        _ => Vec::new(),
    }
}

/// Returns a short description of `key`.
pub fn about(key: &str) -> &'static str {
    match key {
        "lr" => "learning rate",
        "optimizer" => "optimiser of the coefficients",
        "weight_decay" => "decoupled, per step and unit of learning rate",
        "schedule" => "learning rate schedule after the warm-up",
        "warmup" => "number of steps over which the learning rate rises from 0",
        "total_steps" => {
            "step at which the linear schedule ends; 0: after one epoch of the largest data set"
        }
        "clip" => "maximum gradient norm; 0: no clipping",
        "batch_size" => "examples per source per step",
        "shuffle" => "whether examples are shuffled in every epoch",
        "max_length" => "maximum tokens of an example; longer ones are truncated",
        "temperature" => "temperature of the KL and entropy terms",
        "reduction" => "how the KL term is averaged",
        "kl" => "weight of the KL divergence from each source on its own data",
        "mse" => "weight of the mean squared error between their logits",
        "entropy" => "weight of the entropy of the merge",
        "cosine" => "weight of the cosine similarity of the sources' coefficients",
        "l1" => "weight of the L1 norms of the coefficients",
        "l2" => "weight of the L2 norms of the coefficients",
        "overlap" => "weight of the overlap of source pairs in each column",
        "weighted_overlap" => "overlap weighted by the angle between task vectors; needs a base",
        "top_k" => "teacher logits kept per token; 0: the whole vocabulary",
        "seed" => "seed of the order of examples and of a random start",
        "recompute" => "whether the backward pass recomputes layers, to save memory",
        "device" => "device of the computation",
        "threads" => "number of threads; 0: one per core",
        "dtype" => "dtype of the merged model; bf16 and f16 on a GPU",
        _ => "",
    }
}

/// The limit above which an upper bound is not mentioned.
const MANY: usize = 1 << 40;

impl Settings {
    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// An unknown key (the error names the nearest), or a value out of range. Nothing changes then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let real = |low: f64, open: bool| {
            let x: Option<f64> = value
                .parse()
                .ok()
                .filter(|x: &f64| x.is_finite() && *x >= low && (!open || *x > low));
            x.ok_or_else(|| {
                Error::bad_value(
                    key,
                    value,
                    format!("a number {} {low}", if open { "above" } else { "of at least" }),
                )
            })
        };
        let within = |low: usize, high: usize| {
            let x: Option<usize> = value.parse().ok().filter(|x| (low..=high).contains(x));
            let range = if high < MANY {
                format!("from {low} to {high}")
            } else {
                format!("of at least {low}")
            };
            x.ok_or_else(|| Error::bad_value(key, value, format!("an integer {range}")))
        };
        let whole = |low: usize| within(low, MANY);
        match key {
            "lr" => self.lr = real(0.0, true)?,
            "optimizer" => self.optimizer = choose(key, value, &OPTIMIZERS)?,
            "weight_decay" => self.weight_decay = real(0.0, false)?,
            "schedule" => self.schedule = choose(key, value, &SCHEDULES)?,
            "warmup" => self.warmup = whole(0)?,
            "total_steps" => self.total_steps = whole(0)?,
            "clip" => self.clip = real(0.0, false)?,
            "batch_size" => self.batch_size = within(1, 1 << 16)?,
            "shuffle" => self.shuffle = choose(key, value, &SWITCH)?,
            "max_length" => self.max_length = whole(2)?,
            "temperature" => self.temperature = real(0.0, true)?,
            "reduction" => self.reduction = choose(key, value, &REDUCTIONS)?,
            "kl" => self.weights.kl = real(0.0, false)?,
            "mse" => self.weights.mse = real(0.0, false)?,
            "entropy" => self.weights.entropy = real(0.0, false)?,
            "cosine" => self.weights.cosine = real(0.0, false)?,
            "l1" => self.weights.l1 = real(0.0, false)?,
            "l2" => self.weights.l2 = real(0.0, false)?,
            "overlap" => self.weights.overlap = real(0.0, false)?,
            "weighted_overlap" => self.weights.weighted_overlap = real(0.0, false)?,
            // With a single logit, all distributions are equal.
            "top_k" if value == "1" => {
                return Err(Error::bad_value(key, value, "0, or an integer of at least 2"));
            }
            "top_k" => self.top_k = whole(0)?,
            "seed" => {
                self.seed = value
                    .parse()
                    .map_err(|_| Error::bad_value(key, value, "an integer of at least 0"))?
            }
            "recompute" => self.recompute = choose(key, value, &RECOMPUTE)?,
            "device" => self.device = choose(key, value, &DEVICES)?.into(),
            "threads" => self.threads = within(0, 1024)?,
            "dtype" => self.dtype = choose(key, value, &DTYPES)?.into(),
            _ => return Err(Error::unknown("key", key, KEYS)),
        }
        Ok(())
    }

    /// Returns the value of `key` in the form that `set` accepts.
    pub fn get(&self, key: &str) -> Option<String> {
        let json = serde_json::to_value(self).ok()?;
        let value = json.get(key).or_else(|| json["weights"].get(key))?;
        Some(match value {
            serde_json::Value::Bool(on) => if *on { "on" } else { "off" }.into(),
            serde_json::Value::String(text) => text.clone(),
            whole if whole.is_u64() => whole.to_string(),
            number => number.as_f64().map_or_else(|| number.to_string(), |x| x.to_string()),
        })
    }

    /// Checks all values.
    ///
    /// # Errors
    /// The first value that [`Settings::set`] would reject.
    pub fn check(&self) -> Result<()> {
        let mut copy = self.clone();
        KEYS.iter().try_for_each(|key| copy.set(key, &self.get(key).unwrap_or_default()))
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

    /// Returns the device and the dtype of the computation.
    ///
    /// # Errors
    /// A device that is not available in this build or on this machine, or a dtype that it does not
    /// support.
    pub fn device_and_dtype(&self) -> Result<(Device, DType)> {
        let missing = |reason: String| Error::Device { device: self.device.clone(), reason };
        let device = match self.device.as_str() {
            "cpu" => Device::Cpu,
            "cuda" => Device::new_cuda(0).map_err(|e| missing(first_line(&e)))?,
            "metal" => Device::new_metal(0).map_err(|e| missing(first_line(&e)))?,
            _ => Device::new_cuda(0).or_else(|_| Device::new_metal(0)).unwrap_or(Device::Cpu),
        };
        let dtype = match self.dtype.as_str() {
            "bf16" => DType::BF16,
            "f16" => DType::F16,
            _ => DType::F32,
        };
        if device.is_cpu() && dtype != DType::F32 {
            return Err(Error::bad_value(
                "dtype",
                &self.dtype,
                "f32 on the CPU; bf16 and f16 need a GPU",
            ));
        }
        Ok((device, dtype))
    }
}

/// Returns the choice named `value`.
pub fn choose<T: Clone>(key: &str, value: &str, choices: &[(&str, T)]) -> Result<T> {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let found = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| choice.clone());
    found.ok_or_else(|| Error::bad_value(key, value, names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let mut settings = Settings::default();
        for key in KEYS {
            let value = settings.get(key).unwrap();
            settings.set(key, &value).unwrap();
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn keys_have_descriptions_and_accept_all_choices() {
        for key in KEYS {
            assert!(!about(key).is_empty(), "{key}");
            for choice in choices(key) {
                Settings::default().set(key, choice).unwrap();
            }
            let default = Settings::default().get(key).unwrap();
            assert!(choices(key).is_empty() == default.parse::<f64>().is_ok(), "{key}={default}");
        }
    }

    #[test]
    fn schedules_warm_up_and_decay() {
        let settings =
            Settings { lr: 1.0, warmup: 2, schedule: Schedule::Linear, ..Default::default() };
        let rates: Vec<f64> = (0..7).map(|step| settings.lr_at(step, 6)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
    }
}
