//! A merge in the making: every tensor with its sources, and the variables that make its coefficients.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::part::{MergedPart, MergedWeights, Slot};
use super::variables::{Variable, variables};
use super::{Site, Wrap};
use crate::checkpoint::{Architecture, BASE, Kind, Source, TensorSpec, Values, views};
use crate::error::{Error, Result};
use crate::ops::{Form, ScaledSum, send_down};

/// One tensor of the merge.
pub struct MergedTensor {
    /// Its name, kind and shape.
    pub spec: TensorSpec,
    /// Whether the optimiser moves what makes its coefficients.
    pub trains: bool,
    /// The scheme's parameters for it, among the merge's variables.
    pub variables: Vec<usize>,
    operation: ScaledSum,
}

/// Every tensor of the merge, in the order of computation.
pub struct Merge {
    /// Embedding, layers, last norm, output layer.
    pub tensors: Vec<MergedTensor>,
    /// What makes their coefficients, in the order of the first tensor that uses it.
    pub variables: Vec<Variable>,
    /// How they were wrapped.
    pub wrap: Wrap,
    /// Where merged weights are made.
    pub device: Device,
    /// What the merged model is.
    pub architecture: Architecture,
    sources: usize,
    base: Option<usize>,
    /// The number of coefficients of the tensor that has most.
    most: usize,
    pub(super) slots: Mutex<BTreeMap<String, Slot>>,
}

impl Merge {
    /// Wraps `sources`, which must be mergeable, at the start that `how` gives.
    ///
    /// # Errors
    /// A scheme that is wrong, or a device without room for the sources.
    pub fn new(sources: &[Source], how: impl Into<Wrap>, device: Device) -> Result<Self> {
        let Some(first) = sources.first() else {
            return Err(Error::Sources { what: "nothing to merge".into(), hint: "load a source" });
        };
        let (wrap, architecture) = (how.into(), first.architecture()?.clone());
        let base = sources.iter().position(|s| s.name() == BASE);
        let mut merge = Self {
            tensors: Vec::new(),
            variables: Vec::new(),
            wrap,
            device,
            architecture,
            sources: sources.len(),
            base,
            most: 0,
            slots: Mutex::default(),
        };
        let specs = merge.architecture.tensors();
        let sites: Vec<Site<'_>> = specs.iter().map(|spec| merge.site(spec)).collect();
        let (variables, uses) = variables(&*merge.wrap.scheme, &sites)?;
        let tensors = (sites.iter().zip(uses))
            .map(|(site, variables)| {
                Ok(MergedTensor {
                    spec: site.spec.clone(),
                    trains: merge.wrap.options.trains(site.kind()),
                    variables,
                    operation: ScaledSum::new(views(sources, site.spec)?, site.columns(), &merge.device)?,
                })
            })
            .collect::<Result<_>>()?;
        (merge.tensors, merge.variables) = (tensors, variables);
        // Where a scheme fails is known before anything is trained.
        let counts = merge.tensors.iter().map(|t| Ok(merge.coefficients(t)?.elem_count()));
        merge.most = counts.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
        Ok(merge)
    }

    /// `spec` as the scheme sees it.
    pub fn site<'a>(&'a self, spec: &'a TensorSpec) -> Site<'a> {
        let Self { architecture, sources, base, .. } = self;
        Site { spec, architecture, sources: *sources, base: *base, options: &self.wrap.options }
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

    /// The number of values that the variables have; with `trained`, of those that train.
    pub fn parameters(&self, trained: bool) -> usize {
        self.variables.iter().filter(|v| v.trains || !trained).map(|v| v.value.elem_count()).sum()
    }

    /// Bytes that the coefficients of one tensor and their gradients take at most, on the CPU. Little, unless
    /// every element has its own.
    pub fn coefficient_bytes(&self) -> u64 {
        // On the way down c, f(c) and their gradients; in a penalty c, pairs of its sources, what is made of them,
        // and the gradients of it all: about a dozen.
        12 * DType::F32.size_in_bytes() as u64 * self.most as u64
    }

    /// The coefficients `c` of `tensor` in broadcast form, sources x R x C, f32, on the merge's device. A loss
    /// has gradients by the variables through them.
    ///
    /// # Errors
    /// A scheme that fails, or gives another shape.
    pub fn coefficients(&self, tensor: &MergedTensor) -> Result<Tensor> {
        self.made_of(tensor, |value| value.to_device(&self.device))
    }

    /// `f(c)`, apart from any graph.
    fn scales(&self, tensor: &MergedTensor) -> Result<Tensor> {
        let c = self.made_of(tensor, |value| value.detach().to_device(&self.device))?;
        Ok(self.wrap.options.f.apply(&c)?.detach())
    }

    /// The coefficients of `tensor`, each of its variables taken by `take`.
    fn made_of(&self, tensor: &MergedTensor, take: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> Result<Tensor> {
        let values = tensor.variables.iter().map(|i| take(self.variables[*i].value.as_tensor()));
        self.site(&tensor.spec).coefficients(&*self.wrap.scheme, &values.collect::<candle_core::Result<Vec<_>>>()?)
    }

    /// Every merged weight in `dtype`, `sum_i f(c_i) W_i`, in memory of its own. They are variables: a
    /// loss has gradients by them.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn weights(&self, dtype: DType) -> Result<BTreeMap<String, Tensor>> {
        let weight = |tensor: &MergedTensor| {
            let weight = tensor.operation.forward_in(&self.scales(tensor)?, dtype, None)?;
            Ok((tensor.spec.name.clone(), weight.into_inner()))
        };
        self.tensors.iter().map(weight).collect()
    }

    /// The merged weights in `dtype`, for a decoder that asks for them one at a time.
    pub fn as_weights(&self, dtype: DType) -> MergedWeights<'_> {
        MergedWeights { merge: self, dtype }
    }

    /// One merged weight in pieces, as [`ScaledSum::values`] gives them.
    pub(crate) fn values<'a>(&self, tensor: &'a MergedTensor) -> Result<Values<'a>> {
        tensor.operation.values(&self.scales(tensor)?)
    }

    /// One merged weight, f32.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn weight(&self, tensor: &MergedTensor) -> Result<candle_core::Var> {
        tensor.operation.forward(&self.scales(tensor)?)
    }

    /// The merged rows `ids` (u32) of `tensor`: ids x columns, f32.
    ///
    /// # Errors
    /// Ids beyond its rows.
    pub fn rows(&self, tensor: &MergedTensor, ids: &Tensor) -> Result<Tensor> {
        tensor.operation.forward_rows(&self.scales(tensor)?, ids)
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
            let weight = tensor.operation.forward_in(&self.scales(tensor)?, dtype, before.as_ref().map(|slot| &slot.weight))?;
            let slot = Slot { weight, gradient: before.map(|slot| slot.gradient).unwrap_or_default() };
            slot.gradient.clear();
            kept.insert(tensor.spec.role(), slot.clone());
            weights.insert(tensor.spec.name.clone(), (tensor, slot));
        }
        Ok(MergedPart { weights, learn })
    }

    /// The loss's gradient by the variables of `tensor` for that by its merged weight, each with its place.
    ///
    /// # Errors
    /// A gradient of another shape.
    pub fn pull_back(&self, tensor: &MergedTensor, gradient: &Tensor) -> Result<Vec<(usize, Tensor)>> {
        self.pulled_back(tensor, |form| tensor.operation.backward(&gradient.to_dtype(DType::F32)?, form))
    }

    /// [`Merge::pull_back`] for the gradient by [`Merge::rows`].
    ///
    /// # Errors
    /// A gradient of another shape.
    pub fn pull_back_rows(&self, tensor: &MergedTensor, gradient: &Tensor, ids: &Tensor) -> Result<Vec<(usize, Tensor)>> {
        self.pulled_back(tensor, |form| tensor.operation.backward_rows(&gradient.to_dtype(DType::F32)?, ids, form))
    }

    /// The chain rule, on from the gradient by the scales `f(c)`.
    fn pulled_back(&self, tensor: &MergedTensor, by_scales: impl FnOnce(Form) -> Result<Tensor>) -> Result<Vec<(usize, Tensor)>> {
        let scales = self.wrap.options.f.apply(&self.coefficients(tensor)?)?;
        let (_, rows, columns) = scales.dims3()?;
        let by_scales = by_scales(Form { rows, columns })?;
        self.gradients(tensor, &send_down(&scales, &by_scales)?)
    }

    /// The gradient of `loss`, a scalar made of the coefficients of `tensor`, by those of its variables that it
    /// is made of, each with its place.
    ///
    /// # Errors
    /// An operation whose backward fails.
    pub fn gradients(&self, tensor: &MergedTensor, loss: &Tensor) -> Result<Vec<(usize, Tensor)>> {
        let mut found = loss.backward()?;
        // candle's gradients remember what they were made of.
        let of = |i: &usize| Some((*i, found.remove(self.variables[*i].value.as_tensor())?.detach()));
        Ok(tensor.variables.iter().filter_map(of).collect())
    }
}

impl MergedTensor {
    /// Whether the penalties on coefficients apply: to weights that train.
    pub fn is_penalised(&self) -> bool {
        self.trains && self.spec.kind != Kind::Bias
    }
}
