//! The logit lens: what a model would answer if it ended at a place, by its final norm and output
//! layer applied to the residual stream there.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use crate::checkpoint::Architecture;
use crate::error::Result;
use crate::eval::{likeliest, log_prob, without};
use crate::interrupt;
use crate::model::{Decoder, Weights, chunks};

/// The name of the final norm's weight.
pub(super) const FINAL_NORM: &str = "model.norm.weight";

/// What is read from a residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// The log-probability of the answer token, in nats; `None` if the model lacks the token.
    pub log_prob: Option<f64>,
    /// The most likely token.
    pub likeliest: u32,
}

impl Reading {
    /// Returns the probability of the answer token; 0 if the model lacks the token.
    pub fn probability(&self) -> f64 {
        self.log_prob.map_or(0.0, f64::exp)
    }

    /// Returns the loss, `-ln p`, in nats.
    pub fn loss(&self) -> f64 {
        self.log_prob.map_or(f64::INFINITY, |log_prob| -log_prob)
    }
}

/// The final norm and the output layer of a model.
pub(super) struct Lens<'a> {
    pub architecture: &'a Architecture,
    weights: BTreeMap<String, Tensor>,
    /// Tokens that the model lacks.
    lacking: &'a [u32],
}

impl<'a> Lens<'a> {
    /// Loads the lens of a model with `weights`.
    ///
    /// # Errors
    /// A missing weight, or out of memory on the device.
    pub fn new<W: Weights + ?Sized>(
        architecture: &'a Architecture,
        weights: &W,
        lacking: &'a [u32],
    ) -> Result<Self> {
        let names = [FINAL_NORM, architecture.output()];
        let held = names.map(|name| Ok((name.to_owned(), weights.weight(name)?)));
        let weights = held.into_iter().collect::<Result<_>>()?;
        Ok(Self { architecture, weights, lacking })
    }

    /// Returns the lens with `weight` in place of its tensor `name`.
    pub fn with(&self, name: &str, weight: Tensor) -> Self {
        let mut weights = self.weights.clone();
        weights.insert(name.to_owned(), weight);
        Self { weights, ..*self }
    }

    /// Whether it uses the tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// Returns the tensor `name` of the lens.
    ///
    /// # Errors
    /// Another tensor.
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        self.weights.weight(name)
    }

    /// Calls `take` with the logits of each row of `x` (rows x hidden), minus infinity for tokens
    /// that the model lacks.
    ///
    /// # Errors
    /// Out of memory on the device, or [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn for_logits(&self, x: &Tensor, mut take: impl FnMut(&[f32])) -> Result<()> {
        let decoder = Decoder::new(self.architecture, &self.weights);
        let hidden = decoder.last_norm(x)?;
        for chunk in chunks(hidden.dim(0)?, self.architecture.vocabulary, x.device()) {
            interrupt::check()?;
            let logits = decoder.logits(&hidden.narrow(0, chunk.start, chunk.len())?)?;
            let rows = logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
            rows.into_iter().for_each(|row| take(&without(row, self.lacking)));
        }
        Ok(())
    }

    /// Reads each row of `x` (rows x hidden) for the answer token `answer`.
    ///
    /// # Errors
    /// As for [`Lens::for_logits`].
    pub fn read(&self, x: &Tensor, answer: u32) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        self.for_logits(x, |row| {
            readings.push(Reading { log_prob: log_prob(row, answer), likeliest: likeliest(row) });
        })?;
        Ok(readings)
    }
}
