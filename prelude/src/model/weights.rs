//! The source of a decoder's weights.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::checkpoint::{Architecture, Source, TensorSpec};
use crate::device::{is_composed, of_layer};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::ops::{Gradient, decode_rows};

/// Weights by name, in the shapes of the architecture.
pub trait Weights {
    /// Returns the weight `name`.
    ///
    /// # Errors
    /// An unknown name.
    fn weight(&self, name: &str) -> Result<Tensor>;

    /// Returns the rows `ids` (u32) of the weight `name`: ids x columns.
    ///
    /// # Errors
    /// As for `weight`, or ids out of range.
    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        Ok(self.weight(name)?.index_select(ids, 0)?)
    }

    /// Begins to copy the weights of layer `layer` to where they are used. It is called after the
    /// weights of the layer before have been requested.
    fn copy_ahead(&self, _layer: usize) {}

    /// Begins to read the weights of layer `layer` from the disk, if they are in mapped files. It
    /// is called two layers before they are requested.
    fn read_ahead(&self, _layer: usize) {}

    /// Lets go of the weights of layer `layer`, whose use has ended, if main memory has no room for
    /// those of all layers.
    fn let_go(&self, _layer: usize) {}

    /// Returns the accumulator for the gradient of the linear weight `name`; `None` if the weight
    /// is an ordinary operand.
    fn gradient(&self, _name: &str) -> Option<&Gradient> {
        None
    }
}

impl Weights for BTreeMap<String, Tensor> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        self.get(name).cloned().ok_or_else(|| Error::NoMatch { pattern: name.into() })
    }
}

/// A source's own weights, read from its file one at a time, on request; on a device other than the
/// CPU they are copied once while there is room.
pub struct SourceWeights<'a> {
    /// The source they are read from.
    pub source: &'a Source,
    /// The device they are copied to.
    pub device: &'a Device,
    /// The dtype they are converted to.
    pub dtype: DType,
}

impl SourceWeights<'_> {
    /// Loads all weights of its decoder, for repeated passes through one model.
    ///
    /// # Errors
    /// A family that cannot be run, or out of memory on the device.
    pub fn collect(&self) -> Result<BTreeMap<String, Tensor>> {
        collect(self.source.architecture()?, self)
    }
}

/// Loads all weights of a decoder of `architecture`.
///
/// # Errors
/// As for [`collect_as`].
pub(crate) fn collect<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
) -> Result<BTreeMap<String, Tensor>> {
    collect_as(architecture, weights, |_, weight| Ok(weight))
}

/// Loads all weights of a decoder of `architecture`, each as `map` makes it from its name and
/// value.
///
/// # Errors
/// A missing weight, out of memory on the device, or [`Error::Interrupted`].
pub(super) fn collect_as<W: Weights + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    map: impl Fn(&str, Tensor) -> candle_core::Result<Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let one = |spec: TensorSpec| {
        interrupt::check()?;
        let weight = map(&spec.name, weights.weight(&spec.name)?)?;
        Ok((spec.name, weight))
    };
    architecture.tensors().into_iter().map(one).collect()
}

impl Weights for SourceWeights<'_> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        let weight = if is_composed(self.device) {
            let layers = self.source.architecture().map_or(0, |a| a.layers);
            let device = of_layer(self.device, TensorSpec::layer_of(name), layers);
            self.source.on_device(name, &device)?
        } else {
            self.source.view(name)?.to_tensor(self.device)?
        };
        Ok(weight.to_dtype(self.dtype)?)
    }

    fn copy_ahead(&self, layer: usize) {
        let Ok(architecture) = self.source.architecture() else { return };
        if is_composed(self.device) {
            let own = if layer < architecture.layers {
                architecture.layer_tensors(layer)
            } else {
                Vec::new()
            };
            let own = own.into_iter().map(|spec| spec.name);
            let device = of_layer(self.device, Some(layer), architecture.layers);
            self.source.copy_ahead(own.collect(), &device);
        }
    }

    fn read_ahead(&self, layer: usize) {
        if !is_composed(self.device) {
            self.source.read_ahead(layer);
        }
    }

    fn let_go(&self, layer: usize) {
        if !is_composed(self.device) {
            self.source.let_go(layer);
        }
    }

    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        if is_composed(self.device) {
            let rows = self.source.on_device(name, self.device)?.index_select(ids, 0)?;
            return Ok(rows.to_dtype(self.dtype)?);
        }
        let view = self.source.view(name)?;
        Ok(decode_rows(view, &ids.to_device(&Device::Cpu)?)?
            .to_device(self.device)?
            .to_dtype(self.dtype)?)
    }
}
