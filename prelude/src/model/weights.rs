//! Where a decoder's weights come from.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::checkpoint::{Architecture, Source, TensorSpec};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::ops::{Gradient, decode_rows};

/// Weights by name, in the shape the architecture gives them.
pub trait Weights {
    /// The weight `name`.
    ///
    /// # Errors
    /// A name that is not there.
    fn weight(&self, name: &str) -> Result<Tensor>;

    /// The rows `ids` (u32) of the weight `name`: ids x columns.
    ///
    /// # Errors
    /// As for `weight`, or ids beyond its rows.
    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        Ok(self.weight(name)?.index_select(ids, 0)?)
    }

    /// Where the gradient of the linear weight `name` is to add up; none: the weight is an operand like
    /// any other.
    fn gradient(&self, _name: &str) -> Option<&Gradient> {
        None
    }
}

impl Weights for BTreeMap<String, Tensor> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        self.get(name).cloned().ok_or_else(|| Error::NoMatch { pattern: name.into() })
    }
}

/// A source's own weights, copied out of its file one at a time, as they are asked for.
pub struct SourceWeights<'a> {
    /// Where they are read from.
    pub source: &'a Source,
    /// Where they are copied to.
    pub device: &'a Device,
    /// What they are converted to.
    pub dtype: DType,
}

impl SourceWeights<'_> {
    /// All that its decoder has at once, for many runs of one model.
    ///
    /// # Errors
    /// A family that cannot be run here, or a device that has no room.
    pub fn collect(&self) -> Result<BTreeMap<String, Tensor>> {
        collect(self.source.architecture()?, self)
    }
}

/// All weights that a decoder of `architecture` has, at once.
///
/// # Errors
/// A missing weight, a device that has no room, or [`Error::Interrupted`].
pub(crate) fn collect<W: Weights + ?Sized>(architecture: &Architecture, weights: &W) -> Result<BTreeMap<String, Tensor>> {
    let one = |spec: TensorSpec| {
        interrupt::check()?;
        let weight = weights.weight(&spec.name)?;
        Ok((spec.name, weight))
    };
    architecture.tensors().into_iter().map(one).collect()
}

impl Weights for SourceWeights<'_> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        Ok(self.source.view(name)?.to_tensor(self.device)?.to_dtype(self.dtype)?)
    }

    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        let view = self.source.view(name)?;
        Ok(decode_rows(view, &ids.to_device(&Device::Cpu)?)?.to_device(self.device)?.to_dtype(self.dtype)?)
    }
}
