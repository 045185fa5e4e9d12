//! A merge in the making: every tensor with its sources and its coefficients.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::Columns;
use crate::checkpoint::{Architecture, Kind, Source, TensorSpec, Values, views};
use crate::error::{Error, Result};
use crate::model::Weights;
use crate::ops::{ColumnMerge, Gradient};

/// One tensor of the merge.
pub struct MergedTensor {
    /// Its name, kind and shape.
    pub spec: TensorSpec,
    /// `c`, sources x columns, f32, on the CPU.
    pub coefficients: Var,
    /// Whether the optimiser moves them.
    pub trains: bool,
    operation: ColumnMerge,
}

/// Memory for a merged weight and its gradient, shared by the weights that do the same in every layer.
#[derive(Clone)]
struct Slot {
    weight: Var,
    gradient: Gradient,
}

/// Every tensor of the merge, in the order of computation.
pub struct Merge {
    /// Embedding, layers, last norm, output layer.
    pub tensors: Vec<MergedTensor>,
    /// How they were wrapped.
    pub columns: Columns,
    /// Where merged weights are made.
    pub device: Device,
    /// What the merged model is.
    pub architecture: Architecture,
    slots: Mutex<BTreeMap<String, Slot>>,
}

impl Merge {
    /// Wraps `sources`, which must be mergeable, at the start that `columns` names.
    ///
    /// # Errors
    /// A device without room for the sources.
    pub fn new(sources: &[Source], columns: Columns, device: Device) -> Result<Self> {
        let Some(first) = sources.first() else {
            return Err(Error::Sources { what: "nothing to merge".into(), hint: "load a source" });
        };
        let architecture = first.architecture()?.clone();
        let tensors = (architecture.tensors().into_iter())
            .map(|spec| {
                let start = columns.start(&spec, sources.len());
                let start = Tensor::from_vec(start, (sources.len(), Columns::width(&spec)), &Device::Cpu)?;
                Ok(MergedTensor {
                    coefficients: Var::from_tensor(&start)?,
                    trains: columns.trains(spec.kind),
                    operation: ColumnMerge::new(views(sources, &spec)?, Columns::width(&spec), &device)?,
                    spec,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { tensors, columns, device, architecture, slots: Mutex::default() })
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// A name that is not there.
    pub fn tensor(&self, name: &str) -> Result<&MergedTensor> {
        self.tensors.iter().find(|t| t.spec.name == name).ok_or_else(|| Error::NoMatch { pattern: name.into() })
    }

    /// The embedding.
    ///
    /// # Errors
    /// None: every architecture has one.
    pub fn embedding(&self) -> Result<&MergedTensor> {
        self.tensor(TensorSpec::EMBEDDING)
    }

    /// The number of coefficients.
    pub fn coefficients(&self) -> usize {
        self.tensors.iter().map(|t| t.coefficients.elem_count()).sum()
    }

    /// Every merged weight in `dtype`, `sum_i f(c_i) W_i`, in memory of its own. They are variables: a
    /// loss has gradients by them.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn weights(&self, dtype: DType) -> Result<BTreeMap<String, Tensor>> {
        let weight = |tensor: &MergedTensor| {
            let weight = tensor.operation.forward_in(&self.scale(tensor)?, dtype, None)?;
            Ok((tensor.spec.name.clone(), weight.into_inner()))
        };
        self.tensors.iter().map(weight).collect()
    }

    /// The merged weights in `dtype`, for a decoder that asks for them one at a time.
    pub fn as_weights(&self, dtype: DType) -> MergedWeights<'_> {
        MergedWeights { merge: self, dtype }
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

    /// The merged rows `ids` (u32) of `tensor`: ids x columns, f32.
    ///
    /// # Errors
    /// Ids beyond its rows.
    pub fn rows(&self, tensor: &MergedTensor, ids: &Tensor) -> Result<Tensor> {
        tensor.operation.forward_rows(&self.scale(tensor)?, ids)
    }

    /// The weights of layer `layer`, or without one those after the last layer, for one pass.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn part(&self, layer: Option<usize>, dtype: DType, learn: bool) -> Result<MergedPart<'_>> {
        let output = self.architecture.output();
        let belongs = |spec: &TensorSpec| match layer {
            Some(_) => spec.layer() == layer,
            None => spec.layer().is_none() && (spec.kind != Kind::Embedding || spec.name == output),
        };
        let mut kept = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut weights = BTreeMap::new();
        for tensor in self.tensors.iter().filter(|t| belongs(&t.spec)) {
            let before = kept.remove(&tensor.spec.role());
            let weight = tensor.operation.forward_in(&self.scale(tensor)?, dtype, before.as_ref().map(|slot| &slot.weight))?;
            let slot = Slot { weight, gradient: before.map(|slot| slot.gradient).unwrap_or_default() };
            slot.gradient.clear();
            kept.insert(tensor.spec.role(), slot.clone());
            weights.insert(tensor.spec.name.clone(), (tensor, slot));
        }
        Ok(MergedPart { weights, learn })
    }

    /// `f(c)` where the merge is made, apart from any graph.
    fn scale(&self, tensor: &MergedTensor) -> Result<Tensor> {
        Ok(self.columns.f.apply(tensor.coefficients.as_tensor())?.detach().to_device(&self.device)?)
    }

    /// The loss's gradient by `f(c)`, sources x columns, f32, on the CPU, for that by the merged weight.
    ///
    /// # Errors
    /// A gradient of another shape.
    pub fn by_scale(&self, tensor: &MergedTensor, gradient: &Tensor) -> Result<Tensor> {
        Ok(tensor.operation.backward(&gradient.to_dtype(DType::F32)?)?.to_device(&Device::Cpu)?)
    }

    /// [`Merge::by_scale`] for the gradient by [`Merge::rows`].
    ///
    /// # Errors
    /// A gradient of another shape.
    pub fn by_scale_of_rows(&self, tensor: &MergedTensor, gradient: &Tensor, ids: &Tensor) -> Result<Tensor> {
        Ok(tensor.operation.backward_rows(&gradient.to_dtype(DType::F32)?, ids)?.to_device(&Device::Cpu)?)
    }

    /// A scalar whose gradient by the coefficients is that of the loss: `sum(f(c) * dL/df(c))`. It carries
    /// the chain rule on from [`Merge::by_scale`], summed over all sources' data.
    ///
    /// # Errors
    /// A gradient of another shape.
    pub fn pull_back(&self, tensor: &MergedTensor, by_scale: &Tensor) -> Result<Tensor> {
        let scale = self.columns.f.apply(tensor.coefficients.as_tensor())?;
        Ok((scale * by_scale.detach())?.sum_all()?)
    }
}

/// The weights of a merge, each merged when it is asked for, and not kept.
pub struct MergedWeights<'a> {
    merge: &'a Merge,
    dtype: DType,
}

impl Weights for MergedWeights<'_> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        Ok(self.merge.weight(self.merge.tensor(name)?)?.as_tensor().detach().to_dtype(self.dtype)?)
    }

    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        Ok(self.merge.rows(self.merge.tensor(name)?, ids)?.to_dtype(self.dtype)?)
    }
}

/// Some merged weights, in memory that the same weights of other layers use after them: good until the
/// next part is made, and again when this one has been made again.
pub struct MergedPart<'a> {
    weights: BTreeMap<String, (&'a MergedTensor, Slot)>,
    learn: bool,
}

impl<'a> MergedPart<'a> {
    /// The gradients by those of its weights that train, out of the pass's `gradients`.
    pub fn gradients(&self, mut gradients: GradStore) -> Vec<(&'a MergedTensor, Tensor)> {
        let trained = self.weights.values().filter(|(tensor, _)| tensor.trains);
        let found = trained.filter_map(|(tensor, slot)| Some((*tensor, gradients.remove(slot.weight.as_tensor())?)));
        found.collect()
    }

    /// The gradients that added up, of linear layers.
    pub fn sums(&self) -> Vec<(&'a MergedTensor, Tensor)> {
        self.weights.values().filter_map(|(tensor, slot)| Some((*tensor, slot.gradient.total()?))).collect()
    }
}

impl Weights for MergedPart<'_> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        let (tensor, slot) = self.weights.get(name).ok_or_else(|| Error::NoMatch { pattern: name.into() })?;
        Ok(if self.learn && tensor.trains { slot.weight.as_tensor().clone() } else { slot.weight.as_tensor().detach() })
    }

    fn gradient(&self, name: &str) -> Option<&Gradient> {
        self.weights.get(name).filter(|(tensor, _)| self.learn && tensor.trains).map(|(_, slot)| &slot.gradient)
    }
}

impl MergedTensor {
    /// Whether the penalties on coefficients apply: to weights that train.
    pub fn is_penalised(&self) -> bool {
        self.trains && self.spec.kind != Kind::Bias
    }
}
