//! One coefficient per source for a whole tensor, or for all tensors of a layer.
//!
//! `W = sum_i f(c[i]) W_i`, where `c[i]` belongs to the tensor or to its layer.

use super::{Parameter, Scheme, Site};
use crate::checkpoint::Kind;

/// One coefficient per source and tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerTensor;

impl Scheme for PerTensor {
    fn name(&self) -> String {
        "tensor".into()
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        vec![site.parameter(site.name(), 1, 1)]
    }
}

/// One coefficient per source and layer, and one for the layer's biases, whose initial value
/// differs; the embedding, the final norm and the output layer have one each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerLayer;

impl Scheme for PerLayer {
    fn name(&self) -> String {
        "layer".into()
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let key = match (site.layer(), site.kind()) {
            (Some(layer), Kind::Bias) => format!("layers.{layer} biases"),
            (Some(layer), _) => format!("layers.{layer}"),
            (None, _) => site.name().to_owned(),
        };
        vec![site.parameter(key, 1, 1)]
    }
}
