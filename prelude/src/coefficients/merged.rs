//! A trainable merge: every tensor with its sources, and the variables of its coefficients.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::part::{MergedPart, MergedWeights, Slot};
use super::variables::{Variable, variables};
use super::{Site, Wrap};
use crate::checkpoint::{Architecture, BASE, Kind, Source, TensorSpec, Values, views};
use crate::device::{is_composed, of_layer};
use crate::error::{Error, Result};
use crate::ops::{DeviceWeight, Form, ScaledSum, inject_gradient};

/// One tensor of the merge.
pub struct MergedTensor {
    /// Name, kind and shape.
    pub spec: TensorSpec,
    /// Whether the optimiser updates its variables.
    pub trains: bool,
    /// The indices of its parameters among the merge's variables.
    pub variables: Vec<usize>,
    operation: ScaledSum,
    /// The form of its coefficients.
    form: Form,
}

/// All tensors of a merge, in the order of computation.
pub struct Merge {
    /// Embedding, layers, final norm, output layer.
    pub tensors: Vec<MergedTensor>,
    /// The variables of the coefficients, in the order of the first tensor that uses each.
    pub variables: Vec<Variable>,
    /// The scheme and its options.
    pub wrap: Wrap,
    /// The device of the merged weights; with several, the first.
    pub device: Device,
    /// The architecture of the merged model.
    pub architecture: Architecture,
    sources: usize,
    /// The sources, if their weights are copied to a device.
    copied: Vec<Source>,
    /// The sources, if their weights are read from mapped files.
    mapped: Vec<Source>,
    base: Option<usize>,
    /// The largest number of coefficients of any tensor.
    most: usize,
    /// Memory for the weights of one layer, by role.
    slots: Mutex<BTreeMap<String, Slot>>,
}

impl Merge {
    /// Wraps `sources`, which must be mergeable, with the scheme and options `how`.
    ///
    /// # Errors
    /// An invalid scheme, or layers of different shapes.
    pub fn new(sources: &[Source], how: impl Into<Wrap>, device: Device) -> Result<Self> {
        let Some(first) = sources.first() else {
            return Err(Error::Sources { what: "nothing to merge".into(), hint: "load a source" });
        };
        let wrap = how.into();
        let architecture = first.architecture()?.clone();
        let base = sources.iter().position(|s| s.name() == BASE);
        let mut merge = Self {
            tensors: Vec::new(),
            variables: Vec::new(),
            wrap,
            copied: if is_composed(&device) { sources.to_vec() } else { Vec::new() },
            mapped: if is_composed(&device) { Vec::new() } else { sources.to_vec() },
            device,
            architecture,
            sources: sources.len(),
            base,
            most: 0,
            slots: Mutex::default(),
        };
        let specs = merge.architecture.tensors();
        check_roles(&specs)?;
        let sites: Vec<Site<'_>> = specs.iter().map(|spec| merge.site(spec)).collect();
        let (variables, uses) = variables(&*merge.wrap.scheme, &sites)?;
        let mut tensors = Vec::new();
        for (site, variables) in sites.iter().zip(uses) {
            let views = views(sources, site.spec)?;
            let operation = if is_composed(&merge.device) {
                let (layer, layers) = (site.spec.layer(), merge.architecture.layers);
                let weight = |source: &Source| -> DeviceWeight {
                    let (source, device) = (source.clone(), merge.device.clone());
                    let name = site.spec.name.clone();
                    Box::new(move || source.on_device(&name, &of_layer(&device, layer, layers)))
                };
                let weights = sources.iter().map(weight).collect();
                ScaledSum::on_device(weights, views[0].shape.clone(), site.columns())?
            } else {
                ScaledSum::mapped(views, site.columns())?
            };
            tensors.push(MergedTensor {
                spec: site.spec.clone(),
                trains: merge.wrap.options.trains(site.kind()),
                variables,
                operation,
                form: Form { rows: 1, columns: 1 },
            });
        }
        merge.tensors = tensors;
        merge.variables = variables;
        // Finds errors of the scheme before training.
        let forms = merge.tensors.iter().map(|tensor| {
            let (_, rows, columns) = merge.coefficients(tensor)?.dims3()?;
            Ok(Form { rows, columns })
        });
        let forms = forms.collect::<Result<Vec<_>>>()?;
        for (tensor, form) in merge.tensors.iter_mut().zip(forms) {
            tensor.form = form;
            merge.most = merge.most.max(sources.len() * form.rows * form.columns);
        }
        Ok(merge)
    }

    /// Returns `spec` in the form that schemes receive.
    pub fn site<'a>(&'a self, spec: &'a TensorSpec) -> Site<'a> {
        let Self { architecture, sources, base, .. } = self;
        Site { spec, architecture, sources: *sources, base: *base, options: &self.wrap.options }
    }

    /// Returns the tensor `name`.
    ///
    /// # Errors
    /// An unknown name.
    pub fn tensor(&self, name: &str) -> Result<&MergedTensor> {
        self.tensors
            .iter()
            .find(|t| t.spec.name == name)
            .ok_or_else(|| Error::NoMatch { pattern: name.into() })
    }

    /// Returns the embedding.
    ///
    /// # Errors
    /// None: every architecture has an embedding.
    pub fn embedding(&self) -> Result<&MergedTensor> {
        self.tensor(TensorSpec::EMBEDDING)
    }

    /// Returns the device of a tensor: the merge's, or with several GPUs its layer's.
    pub(crate) fn device_of(&self, tensor: &MergedTensor) -> Device {
        of_layer(&self.device, tensor.spec.layer(), self.architecture.layers)
    }

    /// Returns the number of merged sources.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// Returns the number of values of all variables; with `trained`, of the trainable ones.
    pub fn parameters(&self, trained: bool) -> usize {
        self.variables.iter().filter(|v| v.trains || !trained).map(|v| v.value.elem_count()).sum()
    }

    /// Returns the maximum bytes used on the CPU by the coefficients of one tensor and their
    /// gradients. Small, unless every element has its own coefficient.
    pub fn coefficient_bytes(&self) -> u64 {
        // The backward pass holds c, f(c) and their gradients; a penalty holds c, pairs of sources,
        // intermediate results, and the gradients of all of them: about a dozen tensors.
        12 * DType::F32.size_in_bytes() as u64 * self.most as u64
    }

    /// Returns the coefficients `c` of `tensor` in broadcast form: sources x R x C, f32, on the
    /// CPU, where the variables are. Gradients flow through them to the variables.
    ///
    /// # Errors
    /// The scheme fails or returns the wrong shape.
    pub fn coefficients(&self, tensor: &MergedTensor) -> Result<Tensor> {
        self.coefficients_at(tensor, &self.values_of(tensor, Clone::clone))
    }

    /// Whether the coefficients of `tensor` add up to 1 over the sources.
    pub(crate) fn averages(&self, tensor: &MergedTensor) -> bool {
        let sums = || -> Result<Vec<f32>> {
            Ok(self.coefficients(tensor)?.detach().sum(0)?.flatten_all()?.to_vec1()?)
        };
        sums().is_ok_and(|sums| sums.iter().all(|sum| (sum - 1.0).abs() < 1e-3))
    }

    /// Returns `f(c)` on the merge's device, detached from any graph.
    fn scales(&self, tensor: &MergedTensor) -> Result<Tensor> {
        Ok(self.scales_at(tensor, &self.values_of(tensor, Tensor::detach))?.detach())
    }

    /// Returns the variables of `tensor`, each as `take` gives it.
    fn values_of(&self, tensor: &MergedTensor, take: impl Fn(&Tensor) -> Tensor) -> Vec<Tensor> {
        tensor.variables.iter().map(|i| take(self.variables[*i].value.as_tensor())).collect()
    }

    /// Returns the coefficients of `tensor` for the values `parameters` of its variables.
    fn coefficients_at(&self, tensor: &MergedTensor, parameters: &[Tensor]) -> Result<Tensor> {
        self.site(&tensor.spec).coefficients(&*self.wrap.scheme, parameters)
    }

    /// Returns every merged weight in `dtype`, `sum_i f(c_i) W_i`, in its own memory. The weights
    /// are variables, so a loss has gradients with respect to them.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn weights(&self, dtype: DType) -> Result<BTreeMap<String, Tensor>> {
        let weight = |tensor: &MergedTensor| {
            let weight = tensor.operation.forward_in(&self.scales(tensor)?, dtype, None)?;
            Ok((tensor.spec.name.clone(), weight.into_inner()))
        };
        self.tensors.iter().map(weight).collect()
    }

    /// Returns the merged weights in `dtype` for a decoder that reads them one at a time.
    pub fn as_weights(&self, dtype: DType) -> MergedWeights<'_> {
        MergedWeights { merge: self, dtype }
    }

    /// Returns one merged weight in pieces, as [`ScaledSum::values`] does.
    pub(crate) fn values<'a>(&self, tensor: &'a MergedTensor) -> Result<Values<'a>> {
        tensor.operation.values(&self.scales(tensor)?)
    }

    /// Returns one merged weight, f32.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn weight(&self, tensor: &MergedTensor) -> Result<candle_core::Var> {
        tensor.operation.forward(&self.scales(tensor)?)
    }

    /// Returns `sum_i weights[i] W_i` of `tensor`, or of its rows `ids` (u32), as rows x columns in
    /// `dtype`, f32 or f64.
    ///
    /// # Errors
    /// Ids out of range, or out of memory on the device.
    pub(crate) fn combination(
        &self,
        tensor: &MergedTensor,
        weights: &[f64],
        ids: Option<&Tensor>,
        dtype: DType,
    ) -> Result<Tensor> {
        let scales = Tensor::from_slice(weights, (weights.len(), 1, 1), &Device::Cpu)?;
        let scales = scales.to_dtype(dtype)?.to_device(&self.device_of(tensor))?;
        match ids {
            Some(ids) => tensor.operation.forward_rows(&scales, ids),
            None => {
                let sum = tensor.operation.forward(&scales)?.into_inner().detach();
                Ok(sum.reshape(((), self.site(&tensor.spec).columns()))?)
            }
        }
    }

    /// Returns the scales `f(c)` of `tensor` for the values `parameters` of its variables, f32.
    /// Gradients flow through them to these values.
    ///
    /// # Errors
    /// The scheme fails or returns the wrong shape.
    pub(crate) fn scales_at(&self, tensor: &MergedTensor, parameters: &[Tensor]) -> Result<Tensor> {
        let c = self.coefficients_at(tensor, parameters)?;
        Ok(self.wrap.options.f.apply(&c)?.to_device(&self.device_of(tensor))?)
    }

    /// Like [`Merge::weight`], computed in `dtype`, f32 or f64, and detached from any graph.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(crate) fn weight_in(&self, tensor: &MergedTensor, dtype: DType) -> Result<Tensor> {
        let weight = tensor.operation.forward(&self.scales(tensor)?.to_dtype(dtype)?)?;
        Ok(weight.into_inner().detach())
    }

    /// Returns the merged rows `ids` (u32) of `tensor`: ids x columns, f32.
    ///
    /// # Errors
    /// Ids out of range.
    pub fn rows(&self, tensor: &MergedTensor, ids: &Tensor) -> Result<Tensor> {
        tensor.operation.forward_rows(&self.scales(tensor)?, ids)
    }

    /// Begins to copy the weights of layer `layer` to its device, if they are not there.
    pub(crate) fn copy_ahead(&self, layer: usize) {
        let own = |tensor: &&MergedTensor| tensor.spec.layer() == Some(layer);
        let names = self.tensors.iter().filter(own).map(|tensor| tensor.spec.name.clone());
        let device = of_layer(&self.device, Some(layer), self.architecture.layers);
        for source in &self.copied {
            source.copy_ahead(names.clone().collect(), &device);
        }
    }

    /// Begins to read the weights of layer `layer` from mapped files.
    pub(crate) fn read_ahead(&self, layer: usize) {
        self.mapped.iter().for_each(|source| source.read_ahead(layer));
    }

    /// Lets go of the weights of layer `layer`, whose use has ended, unless they stay in memory.
    pub(crate) fn let_go(&self, layer: usize) {
        self.mapped.iter().for_each(|source| source.let_go(layer));
    }

    /// Returns the weights of layer `layer`, or with `None` those after the last layer, for one
    /// pass.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn part(
        &self,
        layer: Option<usize>,
        dtype: DType,
        with_gradient: bool,
    ) -> Result<MergedPart<'_>> {
        let output = self.architecture.output();
        let belongs = |spec: &TensorSpec| match layer {
            Some(_) => spec.layer() == layer,
            None => spec.layer().is_none() && (spec.kind != Kind::Embedding || spec.name == output),
        };
        let mut kept = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut part = MergedPart { weights: BTreeMap::new(), with_gradient };
        for tensor in self.tensors.iter().filter(|t| belongs(&t.spec)) {
            let role = tensor.spec.role();
            let before = kept.remove(&role);
            let memory = before.as_ref().map(|slot| &slot.weight);
            if layer.is_some() {
                tensor.operation.hold()?;
            }
            let weight = tensor.operation.forward_in(&self.scales(tensor)?, dtype, memory)?;
            let gradient = before.map(|slot| slot.gradient).unwrap_or_default();
            gradient.clear();
            let slot = Slot { weight, gradient };
            kept.insert(role, slot.clone());
            part.weights.insert(tensor.spec.name.clone(), (tensor, slot));
        }
        Ok(part)
    }

    /// Maps the gradient with respect to the merged weight of `tensor` to the gradient with respect
    /// to its scales `f(c)`: sources x R x C, f32, on the merge's device.
    ///
    /// # Errors
    /// A gradient of the wrong shape.
    pub fn scale_gradient(&self, tensor: &MergedTensor, gradient: &Tensor) -> Result<Tensor> {
        tensor.operation.backward(&gradient.to_dtype(DType::F32)?, tensor.form)
    }

    /// Like [`Merge::scale_gradient`], for the gradient with respect to [`Merge::rows`].
    ///
    /// # Errors
    /// A gradient of the wrong shape.
    pub fn scale_gradient_of_rows(
        &self,
        tensor: &MergedTensor,
        gradient: &Tensor,
        ids: &Tensor,
    ) -> Result<Tensor> {
        tensor.operation.backward_rows(&gradient.to_dtype(DType::F32)?, ids, tensor.form)
    }

    /// Maps the gradient with respect to the scales of `tensor`, on the CPU, to gradients with
    /// respect to its variables, each with the variable's index.
    ///
    /// # Errors
    /// A gradient of the wrong shape.
    pub fn pull_back(
        &self,
        tensor: &MergedTensor,
        by_scales: &Tensor,
    ) -> Result<Vec<(usize, Tensor)>> {
        let scales = self.wrap.options.f.apply(&self.coefficients(tensor)?)?;
        self.gradients(tensor, &inject_gradient(&scales, by_scales)?)
    }

    /// Returns the gradient of `loss`, a scalar computed from the coefficients of `tensor`, with
    /// respect to the variables it depends on, each with the variable's index.
    ///
    /// # Errors
    /// An operation whose backward pass fails.
    pub fn gradients(&self, tensor: &MergedTensor, loss: &Tensor) -> Result<Vec<(usize, Tensor)>> {
        let mut found = loss.backward()?;
        // candle's gradients keep the graph they were computed from.
        let of =
            |i: &usize| Some((*i, found.remove(self.variables[*i].value.as_tensor())?.detach()));
        Ok(tensor.variables.iter().filter_map(of).collect())
    }
}

/// Returns an error unless tensors of the same role have the same shape, which lets layers share
/// the memory of their merged weights and gradients.
fn check_roles(specs: &[TensorSpec]) -> Result<()> {
    let mut first_of_role: BTreeMap<String, &TensorSpec> = BTreeMap::new();
    for spec in specs {
        let first = first_of_role.entry(spec.role()).or_insert(spec);
        if spec.shape != first.shape {
            return Err(Error::BadTensor {
                tensor: spec.name.clone(),
                reason: format!(
                    "its shape `{:?}` differs from `{:?}` of `{}`",
                    spec.shape, first.shape, first.name
                ),
            });
        }
    }
    Ok(())
}

impl MergedTensor {
    /// Lets go of copies of its weights that were kept for one pass through a layer.
    pub(super) fn release(&self) {
        self.operation.release();
    }

    /// Whether the penalties on coefficients apply: to trainable weights.
    pub fn is_penalised(&self) -> bool {
        self.trains && self.spec.kind != Kind::Bias
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coefficients::Columns;

    #[test]
    fn layers_share_the_memory_of_weights_of_the_same_role() {
        let sources = ["builtin:japanese", "builtin:math"].map(|spec| Source::open(spec).unwrap());
        let merge = Merge::new(&sources, Columns::default(), Device::Cpu).unwrap();
        let memory = |layer| {
            let part = merge.part(Some(layer), DType::F32, true).unwrap();
            let slots = part.weights.values();
            slots.map(|(tensor, slot)| (tensor.spec.role(), slot.weight.id())).collect::<Vec<_>>()
        };
        let first = memory(0);
        assert!(!first.is_empty());
        assert_eq!(first, memory(1));
    }

    #[test]
    fn layers_of_different_shapes_are_refused() {
        let source = Source::open("builtin:math").unwrap();
        let mut specs = source.architecture().unwrap().tensors();
        check_roles(&specs).unwrap();
        let wider = "model.layers.1.mlp.up_proj.weight";
        specs.iter_mut().find(|spec| spec.name == wider).unwrap().shape[0] += 1;
        let error = check_roles(&specs).unwrap_err();
        assert!(
            matches!(&error, Error::BadTensor { tensor, reason }
                if tensor == wider && reason.contains("`model.layers.0.mlp.up_proj.weight`")),
            "{error:?}"
        );
    }
}
