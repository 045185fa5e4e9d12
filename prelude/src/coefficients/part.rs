//! Merged weights in the form a decoder reads.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use super::{Merge, MergedTensor};
use crate::error::{Error, Result};
use crate::model::Weights;
use crate::ops::Gradient;

/// Memory for a merged weight and its gradient, shared by the corresponding weights of all layers.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) weight: Var,
    pub(super) gradient: Gradient,
}

/// The weights of a merge, each computed when requested and not kept.
pub struct MergedWeights<'a> {
    pub(super) merge: &'a Merge,
    pub(super) dtype: DType,
}

impl Weights for MergedWeights<'_> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        Ok(self
            .merge
            .weight(self.merge.tensor(name)?)?
            .as_tensor()
            .detach()
            .to_dtype(self.dtype)?)
    }

    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        Ok(self.merge.rows(self.merge.tensor(name)?, ids)?.to_dtype(self.dtype)?)
    }

    fn copy_ahead(&self, layer: usize) {
        self.merge.copy_ahead(layer);
    }

    fn read_ahead(&self, layer: usize) {
        self.merge.read_ahead(layer);
    }

    fn let_go(&self, layer: usize) {
        self.merge.let_go(layer);
    }
}

/// Merged weights in memory that is shared with the same weights of other layers: valid until the
/// next part is made, and again when this part is remade.
pub struct MergedPart<'a> {
    pub(super) weights: BTreeMap<String, (&'a MergedTensor, Slot)>,
    pub(super) with_gradient: bool,
}

impl<'a> MergedPart<'a> {
    /// Takes the gradients of its trainable weights from the pass's `gradients`.
    pub fn gradients(&self, mut gradients: GradStore) -> Vec<(&'a MergedTensor, Tensor)> {
        let trained = self.weights.values().filter(|(tensor, _)| tensor.trains);
        let found = trained.filter_map(|(tensor, slot)| {
            Some((*tensor, gradients.remove(slot.weight.as_tensor())?))
        });
        found.collect()
    }

    /// Returns the accumulated gradients of linear layers.
    pub fn sums(&self) -> Vec<(&'a MergedTensor, Tensor)> {
        self.weights
            .values()
            .filter_map(|(tensor, slot)| Some((*tensor, slot.gradient.total()?)))
            .collect()
    }
}

impl Drop for MergedPart<'_> {
    fn drop(&mut self) {
        self.weights.values().for_each(|(tensor, _)| tensor.release());
    }
}

impl Weights for MergedPart<'_> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        let (tensor, slot) =
            self.weights.get(name).ok_or_else(|| Error::NoMatch { pattern: name.into() })?;
        Ok(if self.with_gradient && tensor.trains {
            slot.weight.as_tensor().clone()
        } else {
            slot.weight.as_tensor().detach()
        })
    }

    fn gradient(&self, name: &str) -> Option<&Gradient> {
        self.weights
            .get(name)
            .filter(|(tensor, _)| self.with_gradient && tensor.trains)
            .map(|(_, slot)| &slot.gradient)
    }
}
