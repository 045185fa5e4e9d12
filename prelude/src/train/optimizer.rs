//! AdamW (arXiv 1711.05101) and MoFO-AdamW (arXiv 2407.20999), over plain slices.
//!
//! `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//! `w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + lr decay w`.
//! MoFO updates only the fraction alpha of each coefficient vector with the largest |m|.

use serde::{Deserialize, Serialize};

/// The optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW: updates all coefficients.
    #[default]
    AdamW,
    /// AdamW that updates only the fraction [`MOFO_ALPHA`] of each vector with the largest
    /// momentum.
    Mofo,
}

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPS: f32 = 1e-8;

/// The fraction of each coefficient vector that MoFO updates per step, as published for DAM.
pub const MOFO_ALPHA: f64 = 0.3;

/// The parameters of one optimiser step.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The optimiser.
    pub optimizer: Optimizer,
    /// The number of the step, from 1.
    pub step: usize,
    /// The learning rate.
    pub lr: f64,
    /// Decoupled weight decay, per step and unit of learning rate.
    pub weight_decay: f64,
}

/// First and second moments of one variable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// The first moment of the gradient.
    pub m: Vec<f32>,
    /// The second moment of the gradient.
    pub v: Vec<f32>,
}

impl Moments {
    /// Updates `w` by `gradient`. `width` is the length of one coefficient vector; the slices
    /// consist of whole vectors.
    pub fn update(&mut self, update: Update, w: &mut [f32], gradient: &[f32], width: usize) {
        let Update { optimizer, step, lr, weight_decay } = update;
        self.m.resize(w.len(), 0.0);
        self.v.resize(w.len(), 0.0);
        for ((m, v), g) in self.m.iter_mut().zip(&mut self.v).zip(gradient) {
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
        }
        let correct = |beta: f32| 1.0 - f64::from(beta).powi(step.min(1 << 30) as i32);
        let rate = (lr / correct(BETA1)) as f32;
        let root = correct(BETA2).sqrt() as f32;
        let keep = (1.0 - lr * weight_decay) as f32;
        for ((w, m), v) in w.chunks_mut(width).zip(self.m.chunks(width)).zip(self.v.chunks(width)) {
            let threshold = match optimizer {
                Optimizer::AdamW => 0.0,
                Optimizer::Mofo => kth_largest(m, ((m.len() as f64 * MOFO_ALPHA) as usize).max(1)),
            };
            for ((w, m), v) in w.iter_mut().zip(m).zip(v) {
                if m.abs() >= threshold {
                    *w = *w * keep - rate * m / (v.sqrt() / root + EPS);
                }
            }
        }
    }
}

/// Returns the `k`-th largest magnitude of `m`, with `k` from 1.
fn kth_largest(m: &[f32], k: usize) -> f32 {
    let mut magnitudes: Vec<f32> = m.iter().map(|m| m.abs()).collect();
    let at = magnitudes.len() - k.min(magnitudes.len());
    *magnitudes.select_nth_unstable_by(at, f32::total_cmp).1
}
