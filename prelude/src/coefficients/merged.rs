//! A merge in the making: every tensor with its sources and its coefficients.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor, Var};

use super::Columns;
use crate::checkpoint::{Kind, Source, TensorSpec, Values, views};
use crate::error::{Error, Result};
use crate::ops::ColumnMerge;

/// One tensor of the merge.
pub struct MergedTensor {
    /// Its name, kind and shape.
    pub spec: TensorSpec,
    /// `c`, sources x columns, f32, on the CPU.
    pub coefficients: Var,
    /// Whether the optimiser moves them.
    pub trains: bool,
    operation: ColumnMerge,
    /// The merged weight, f32, made anew in place whenever all weights are asked for on the CPU.
    merged: OnceLock<Var>,
}

/// Every tensor of the merge, in the order of computation.
pub struct Merge {
    /// Embedding, layers, last norm, output layer.
    pub tensors: Vec<MergedTensor>,
    /// How they were wrapped.
    pub columns: Columns,
    /// Where merged weights are made.
    pub device: Device,
}

impl Merge {
    /// Wraps `sources`, which must be mergeable, at the start that `columns` names.
    ///
    /// # Errors
    /// A device without room for the sources.
    pub fn new(sources: &[Source], columns: Columns, device: Device) -> Result<Self> {
        let specs = sources.first().map(|s| s.tensors().to_vec()).unwrap_or_default();
        let tensors = specs
            .into_iter()
            .map(|spec| {
                let start = columns.start(&spec, sources.len());
                let start = Tensor::from_vec(start, (sources.len(), Columns::width(&spec)), &Device::Cpu)?;
                Ok(MergedTensor {
                    coefficients: Var::from_tensor(&start)?,
                    trains: columns.trains(spec.kind),
                    operation: ColumnMerge::new(views(sources, &spec)?, Columns::width(&spec), &device)?,
                    merged: OnceLock::new(),
                    spec,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { tensors, columns, device })
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// A name that is not there.
    pub fn tensor(&self, name: &str) -> Result<&MergedTensor> {
        self.tensors.iter().find(|t| t.spec.name == name).ok_or_else(|| Error::NoMatch { pattern: name.into() })
    }

    /// The number of coefficients.
    pub fn coefficients(&self) -> usize {
        self.tensors.iter().map(|t| t.coefficients.elem_count()).sum()
    }

    /// Every merged weight in `dtype`, `sum_i f(c_i) W_i`. They are variables: a loss has gradients by
    /// them. On the CPU they take the place of those that the last call gave.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn weights(&self, dtype: DType) -> Result<BTreeMap<String, Tensor>> {
        let mut weights = BTreeMap::new();
        for tensor in &self.tensors {
            let weight = match tensor.merged.get() {
                Some(merged) => {
                    tensor.operation.forward_into(&self.scale(tensor)?, merged)?;
                    merged.clone()
                }
                None if self.device.is_cpu() => {
                    let merged = self.weight(tensor)?;
                    tensor.merged.get_or_init(|| merged).clone()
                }
                None => self.weight(tensor)?,
            };
            let weight = if dtype == weight.dtype() { weight } else { Var::from_tensor(&weight.to_dtype(dtype)?)? };
            weights.insert(tensor.spec.name.clone(), weight.into_inner());
        }
        Ok(weights)
    }

    /// One merged weight in pieces, as [`ColumnMerge::values`] gives them.
    pub(crate) fn values<'a>(&self, tensor: &'a MergedTensor) -> Result<Values<'a>> {
        tensor.operation.values(&self.scale(tensor)?)
    }

    /// One merged weight, f32.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn weight(&self, tensor: &MergedTensor) -> Result<Var> {
        tensor.operation.forward(&self.scale(tensor)?)
    }

    /// `f(c)` where the merge is made, apart from any graph.
    fn scale(&self, tensor: &MergedTensor) -> Result<Tensor> {
        Ok(self.columns.f.apply(tensor.coefficients.as_tensor())?.detach().to_device(&self.device)?)
    }

    /// A scalar whose gradient by the coefficients is that of the loss: `sum(f(c) * dL/df(c))`, where
    /// `dL/df(c)` comes from `gradient`, the loss's gradient by the merged weight. It carries the chain
    /// rule from the weights, summed over all sources' data, on to the coefficients, at their size.
    ///
    /// # Errors
    /// A gradient of another shape.
    pub fn pull_back(&self, tensor: &MergedTensor, gradient: &Tensor) -> Result<Tensor> {
        let by_scale = tensor.operation.backward(&gradient.to_dtype(DType::F32)?)?.to_device(&Device::Cpu)?;
        let scale = self.columns.f.apply(tensor.coefficients.as_tensor())?;
        Ok((scale * by_scale.detach())?.sum_all()?)
    }
}

impl MergedTensor {
    /// Whether the penalties on coefficients apply: to weights that train.
    pub fn is_penalised(&self) -> bool {
        self.trains && self.spec.kind != Kind::Bias
    }
}
