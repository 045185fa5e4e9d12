//! All weights of a model in memory, for a pass per token.

use std::collections::BTreeMap;

use candle_core::{DType, Result as CandleResult, Tensor};

use super::weights::{Weights, collect_as};
use crate::checkpoint::Architecture;
use crate::error::Result;

/// Weights held for decoding. On the CPU, those of products may be bf16 under a computation in f32:
/// a token reads each of them once, so half the bytes take half the time.
pub(crate) struct Held {
    by_name: BTreeMap<String, Tensor>,
    dtype: DType,
}

impl Held {
    /// Loads all of `weights`, which are of `dtype`; with `as_bf16`, rounds those of products to
    /// bf16.
    ///
    /// # Errors
    /// A missing weight, out of memory on the device, or
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn new<W: Weights + ?Sized>(
        architecture: &Architecture,
        weights: &W,
        dtype: DType,
        as_bf16: bool,
    ) -> Result<Self> {
        let rounded = |name: &str, weight: Tensor| -> CandleResult<Tensor> {
            let is_product = weight.rank() == 2 && name.ends_with(".weight");
            if as_bf16 && is_product { weight.to_dtype(DType::BF16) } else { Ok(weight) }
        };
        Ok(Self { by_name: collect_as(architecture, weights, rounded)?, dtype })
    }
}

impl Weights for Held {
    fn weight(&self, name: &str) -> Result<Tensor> {
        self.by_name.weight(name)
    }

    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        Ok(self.by_name.rows(name, ids)?.to_dtype(self.dtype)?)
    }
}
