//! What is traced: a merge with its sources, and one answer token.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::checkpoint::{Architecture, LAYERS_AHEAD, Source};
use crate::data::Batch;
use crate::error::Result;
use crate::model::{Positions, SourceWeights, Weights};

/// A merge and the sources that it is compared with, all of one architecture except for
/// vocabularies.
pub(crate) struct Subject<'a, W: ?Sized> {
    /// The architecture of the merge.
    pub architecture: &'a Architecture,
    /// The merged weights.
    pub merge: &'a W,
    /// The sources.
    pub sources: &'a [Source],
    /// The device of the computation.
    pub device: &'a Device,
    /// Its dtype.
    pub dtype: DType,
}

/// One answer token in its context.
pub(crate) struct Question<'a> {
    /// The tokens before it, at least one.
    pub ids: &'a [u32],
    /// The token.
    pub answer: u32,
    /// The index of the source to compare with and to patch from.
    pub like: usize,
}

impl<'a, W: Weights + ?Sized> Subject<'a, W> {
    /// Returns the weights of source `i`.
    pub fn source(&self, i: usize) -> SourceWeights<'a> {
        SourceWeights { source: &self.sources[i], device: self.device, dtype: self.dtype }
    }

    /// Returns the weight of source `i` that stands for the tensor `name` of the merge: a tied
    /// source has its embedding in place of an output layer.
    ///
    /// # Errors
    /// An unknown name.
    pub fn source_weight(&self, i: usize, name: &str) -> Result<Tensor> {
        let own = self.sources[i].architecture()?.output();
        let is_output = !self.architecture.tied && name == self.architecture.output();
        self.source(i).weight(if is_output { own } else { name })
    }

    /// Returns the tokens of source `i`'s vocabulary that it lacks.
    pub fn lacking(&self, i: usize) -> &'a [u32] {
        self.sources[i].numbering().map_or(&[][..], |numbering| &numbering.missing_rows)
    }

    /// Returns `count` copies of the tokens `ids` as a batch, and their positions.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn batch(&self, ids: &[u32], count: usize) -> Result<(Batch, Positions)> {
        let batch = Batch::new(std::iter::repeat_n(ids, count), self.device)?;
        let positions = Positions::new(self.architecture, &batch);
        Ok((batch, positions))
    }
}

/// Calls `run` with the weights of layer `layer`, which are held only meanwhile.
///
/// # Errors
/// A missing weight, or the error of `run`.
pub(super) fn with_layer<W: Weights + ?Sized, T>(
    weights: &W,
    architecture: &Architecture,
    layer: usize,
    run: impl FnOnce(&BTreeMap<String, Tensor>) -> Result<T>,
) -> Result<T> {
    weights.read_ahead(layer + LAYERS_AHEAD);
    let own = architecture.layer_tensors(layer).into_iter();
    let held = own.map(|spec| {
        let weight = weights.weight(&spec.name)?;
        Ok((spec.name, weight))
    });
    let held = held.collect::<Result<BTreeMap<String, Tensor>>>()?;
    weights.copy_ahead(layer + 1);
    let result = run(&held);
    drop(held);
    weights.let_go(layer);
    result
}
