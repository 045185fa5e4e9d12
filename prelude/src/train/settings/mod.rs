//! The settings, which can be changed between steps.

mod device;
mod table;

pub use table::{SETTINGS, Setting, Values};

use serde::{Deserialize, Serialize};

use super::{Optimizer, Recompute};
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

impl Settings {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_warm_up_and_decay() {
        let settings =
            Settings { lr: 1.0, warmup: 2, schedule: Schedule::Linear, ..Default::default() };
        let rates: Vec<f64> = (0..7).map(|step| settings.lr_at(step, 6)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
    }
}
