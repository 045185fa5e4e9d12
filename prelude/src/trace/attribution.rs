//! The direct contribution of every part to the answer token's logit.
//!
//! The final stream is a sum, `x_L = sum_k d_k`, of the embedding and of what each half-layer adds.
//! With the scale of the final norm frozen at `r = 1 / sqrt(mean(x_L^2) + eps)`, logits are linear
//! in it. With `w` the norm's weight, `U` the output layer, `u = U[a] - mean_v U[v]` and `s` the
//! family's scale of logits:
//!
//! ```text
//! c_k = s r <w * u, d_k>                       so  sum_k c_k = z_a - mean_v z_v
//! loss = -ln p(a) = n - sum_k c_k              with  n = ln sum_v exp(z_v - mean_v z_v)
//! ```
//!
//! The mean over the vocabulary is taken off because softmax does not depend on it. If a family
//! caps logits, what the cap changes is a contribution of its own. Everything is computed in f64
//! from the streams as they are.

use candle_core::{DType, Device, IndexOp, Tensor};
use serde::Serialize;

use super::lens::{FINAL_NORM, Lens};
use super::place::Part;
use crate::error::Result;
use crate::eval::log_sum_exp;
use crate::model::Half;

/// The direct contribution of a part to the answer token's logit, relative to the mean over the
/// vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Contribution {
    /// The part.
    pub part: Part,
    /// Its contribution, in nats.
    pub logit: f64,
}

/// The answer token's loss as a sum over parts: `loss = normaliser - sum of contributions`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attribution {
    /// One contribution per part, in the order of computation.
    pub contributions: Vec<Contribution>,
    /// `ln sum_v exp(z_v - mean_v z_v)`, in nats.
    pub normaliser: f64,
}

impl Attribution {
    /// Returns the sum of all contributions: the answer token's logit, relative to the mean over
    /// the vocabulary.
    pub fn sum(&self) -> f64 {
        self.contributions.iter().map(|c| c.logit).sum()
    }

    /// Returns the loss that they add up to, in nats.
    pub fn loss(&self) -> f64 {
        self.normaliser - self.sum()
    }

    /// Returns the contribution of `part`, if it has one.
    pub fn of(&self, part: Part) -> Option<f64> {
        self.contributions.iter().find(|c| c.part == part).map(|c| c.logit)
    }
}

/// Attributes the logit of `answer` to the parts of a model, from its stream after the embedding
/// and after every half-layer (`rows`, (2 layers + 1) x hidden).
///
/// # Errors
/// Out of memory on the device.
pub(super) fn attribute(lens: &Lens<'_>, rows: &Tensor, answer: u32) -> Result<Attribution> {
    let a = lens.architecture;
    let doubles = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64);
    let streams: Vec<Vec<f64>> = doubles(rows)?.to_vec2()?;
    let output = lens.weight(a.output())?;
    let row: Vec<f64> = doubles(&output.i(answer as usize)?)?.to_vec1()?;
    let mean: Vec<f64> = doubles(&output.to_dtype(DType::F32)?.mean(0)?)?.to_vec1()?;
    let norm: Vec<f64> = doubles(&lens.weight(FINAL_NORM)?)?.to_vec1()?;
    let last = streams.last().map_or(&[][..], Vec::as_slice);
    let squares: f64 = last.iter().map(|x| x * x).sum();
    let scale = a.logit_scale / (squares / last.len().max(1) as f64 + a.norm_eps).sqrt();
    let along = |output: &[f64]| -> Vec<f64> {
        let own = output.iter().zip(&norm);
        own.map(|(u, w)| scale * u * (w + a.norm_offset)).collect()
    };
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let centred: Vec<f64> = row.iter().zip(&mean).map(|(row, mean)| row - mean).collect();
    let direction = along(&centred);

    let parts = (0..a.layers).flat_map(|layer| Half::ALL.map(|half| Part::of(half, layer)));
    let mut contributions = vec![Contribution {
        part: Part::Embedding,
        logit: streams.first().map_or(0.0, |x| dot(&direction, x)),
    }];
    contributions.extend(parts.zip(streams.windows(2)).map(|(part, pair)| {
        let added: Vec<f64> = pair[1].iter().zip(&pair[0]).map(|(after, x)| after - x).collect();
        Contribution { part, logit: dot(&direction, &added) }
    }));
    let (logit, mean_logit) = (dot(&along(&row), last), dot(&along(&mean), last));
    let mut normaliser = 0.0;
    lens.for_logits(&rows.narrow(0, rows.dim(0)? - 1, 1)?, |logits| {
        normaliser = log_sum_exp(logits) - mean_logit;
    })?;
    if let Some(cap) = a.logit_cap {
        let capped = cap * (logit / cap).tanh();
        contributions.push(Contribution { part: Part::LogitCap, logit: capped - logit });
    }
    Ok(Attribution { contributions, normaliser })
}
