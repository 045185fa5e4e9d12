//! The forward and backward pass of the merge on a batch.
//!
//! A layer's merged weights and their gradients are in memory only while that layer runs. The
//! backward pass merges them again, which costs little compared with the layer. A layer's
//! activations are kept for the backward pass, or with `recompute` computed again from its input;
//! memory then grows by one hidden state per layer and token. Before every layer, in both
//! directions, a stop request is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use candle_core::{DType, Tensor, Var};

use crate::checkpoint::LAYERS_AHEAD;
use crate::coefficients::{Merge, MergedPart, MergedTensor};
use crate::data::Batch;
use crate::device::to_host;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Decoder, Positions, Weights};
use crate::ops::inject_gradient;

/// Options of a pass.
#[derive(Clone, Copy, Debug)]
pub struct PassOptions {
    /// The dtype of the computation.
    pub dtype: DType,
    /// Whether a backward pass follows.
    pub with_gradient: bool,
    /// Whether the backward pass recomputes layers.
    pub recompute: bool,
}

/// The gradients of a loss.
#[derive(Default)]
pub struct Gradients {
    /// The gradient by index of the merge's variable: f32, on the CPU.
    pub by_variable: BTreeMap<usize, Tensor>,
    /// The tensors that the gradient reached.
    pub tensors: BTreeSet<String>,
}

impl Gradients {
    /// Adds gradients by variable.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn add(&mut self, gradients: impl IntoIterator<Item = (usize, Tensor)>) -> Result<()> {
        for (variable, new) in gradients {
            let total = match self.by_variable.remove(&variable) {
                Some(old) => (old + new)?,
                None => new,
            };
            self.by_variable.insert(variable, total);
        }
        Ok(())
    }
}

/// A batch after the forward pass through the layers.
pub struct Pass<'a> {
    merge: &'a Merge,
    options: PassOptions,
    ids: Tensor,
    positions: Positions,
    embedded: Tensor,
    layers: Vec<Layer>,
    top: MergedPart<'a>,
    /// The output of the last layer: tokens x hidden.
    states: Tensor,
    /// The gradient of `states`, chunk by chunk.
    state_gradients: Vec<Tensor>,
    /// Gradients with respect to scales, on the device, and their total size in bytes.
    pending: (Vec<(&'a MergedTensor, Tensor)>, usize),
    gradients: Gradients,
}

/// The bytes of gradients with respect to scales that wait to be brought to main memory together:
/// each transfer waits for the device.
const PENDING_BYTES: usize = 64 << 20;

struct Layer {
    input: Tensor,
    output: Option<Tensor>,
}

/// Embedding rows that are already looked up.
struct Embedded<'a>(&'a Tensor);

impl Weights for Embedded<'_> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        Err(Error::NoMatch { pattern: name.into() })
    }

    fn rows(&self, _: &str, _: &Tensor) -> Result<Tensor> {
        Ok(self.0.clone())
    }
}

impl<'a> Pass<'a> {
    /// Runs the forward pass through all layers of `merge` on `batch`.
    ///
    /// # Errors
    /// Ids outside the vocabulary, out of memory on the device, or [`Error::Interrupted`].
    pub fn new(merge: &'a Merge, batch: &Batch, options: PassOptions) -> Result<Self> {
        let ids = batch.ids.clone();
        let positions = Positions::new(&merge.architecture, batch);
        let embedded = merge.rows(merge.embedding()?, &ids)?.to_dtype(options.dtype)?;
        let embedded = tracked(&embedded, options.with_gradient)?;
        let mut x = Decoder::new(&merge.architecture, &Embedded(&embedded)).embed(&ids)?;
        let mut layers = Vec::new();
        let count = merge.architecture.layers;
        (0..LAYERS_AHEAD).for_each(|layer| merge.read_ahead(layer));
        for layer in 0..count {
            merge.read_ahead(layer + LAYERS_AHEAD);
            let graph = options.with_gradient && !options.recompute;
            let weights = merge.part(Some(layer), options.dtype, graph)?;
            merge.copy_ahead(layer + 1);
            let input = tracked(&x, graph)?;
            let output =
                Decoder::new(&merge.architecture, &weights).layer(layer, &input, &positions)?;
            x = output.detach();
            if options.with_gradient {
                layers.push(Layer { input, output: graph.then_some(output) });
            }
            drop(weights);
            // The backward pass begins with the last layers.
            if !options.with_gradient || layer + LAYERS_AHEAD < count {
                merge.let_go(layer);
            }
        }
        let top = merge.part(None, options.dtype, options.with_gradient)?;
        Ok(Self {
            merge,
            options,
            ids,
            positions,
            embedded,
            layers,
            top,
            states: x,
            state_gradients: Vec::new(),
            pending: (Vec::new(), 0),
            gradients: Gradients::default(),
        })
    }

    /// Calls `loss` with the logits of the next chunk of tokens, `rows` (in order, each chunk
    /// once), and returns its terms, each a scalar on the device. The gradient of their sum enters
    /// the backward pass.
    ///
    /// # Errors
    /// The error of `loss`, out of memory on the device, or [`Error::Interrupted`].
    pub fn compare<N>(
        &mut self,
        rows: Range<usize>,
        loss: impl FnOnce(&Tensor) -> Result<Vec<(N, Tensor)>>,
    ) -> Result<Vec<(N, Tensor)>> {
        let x =
            tracked(&self.states.narrow(0, rows.start, rows.len())?, self.options.with_gradient)?;
        let decoder = Decoder::new(&self.merge.architecture, &self.top);
        let terms = loss(&decoder.logits(&decoder.last_norm(&x)?)?)?;
        if self.options.with_gradient && !terms.is_empty() {
            let (_, first) = &terms[0];
            let sum = terms[1..].iter().try_fold(first.clone(), |sum, (_, term)| sum + term)?;
            let mut gradients = sum.backward()?;
            self.state_gradients.push(gradients.remove(&x).map_or_else(|| x.zeros_like(), Ok)?);
            for (tensor, gradient) in self.top.gradients(gradients) {
                self.add(tensor, &gradient)?;
            }
        }
        Ok(terms.into_iter().map(|(name, term)| (name, term.detach())).collect())
    }

    /// Runs the backward pass through all layers, after every token has been compared.
    ///
    /// # Errors
    /// Out of memory on the device, or [`Error::Interrupted`].
    pub fn backward(mut self) -> Result<Gradients> {
        if self.state_gradients.is_empty() {
            return Ok(self.gradients);
        }
        for (tensor, gradient) in self.top.sums() {
            self.add(tensor, &gradient)?;
        }
        let mut upstream = Tensor::cat(&std::mem::take(&mut self.state_gradients), 0)?;
        while let Some(Layer { input, output }) = self.layers.pop() {
            interrupt::check()?;
            let layer = self.layers.len();
            if let Some(below) = layer.checked_sub(LAYERS_AHEAD) {
                self.merge.read_ahead(below);
            }
            let weights = self.merge.part(Some(layer), self.options.dtype, true)?;
            if let Some(next) = layer.checked_sub(1) {
                self.merge.copy_ahead(next);
            }
            let input = tracked(&input, true)?;
            let output = match output {
                Some(output) => output,
                None => Decoder::new(&self.merge.architecture, &weights).layer(
                    layer,
                    &input,
                    &self.positions,
                )?,
            };
            let upstream_here = upstream.to_device(output.device())?;
            let mut gradients = inject_gradient(&output, &upstream_here)?.backward()?;
            upstream = gradients.remove(&input).map_or_else(|| input.zeros_like(), Ok)?;
            for (tensor, gradient) in weights.gradients(gradients).into_iter().chain(weights.sums())
            {
                self.add(tensor, &gradient)?;
            }
            drop(weights);
            // The next step begins with the first layers.
            if layer >= LAYERS_AHEAD {
                self.merge.let_go(layer);
            }
        }
        let embedding = self.merge.embedding()?;
        if embedding.trains {
            let x = Decoder::new(&self.merge.architecture, &Embedded(&self.embedded))
                .embed(&self.ids)?;
            let gradients = inject_gradient(&x, &upstream.to_device(x.device())?)?.backward()?;
            if let Some(gradient) = gradients.get(&self.embedded) {
                let by_scales =
                    self.merge.scale_gradient_of_rows(embedding, gradient, &self.ids)?;
                self.add_scales(embedding, by_scales)?;
            }
        }
        self.flush()?;
        Ok(self.gradients)
    }

    /// Maps the gradient of a merged weight to its scales.
    fn add(&mut self, tensor: &'a MergedTensor, gradient: &Tensor) -> Result<()> {
        let by_scales = self.merge.scale_gradient(tensor, gradient)?;
        self.add_scales(tensor, by_scales)
    }

    /// Adds the gradient of the scales of `tensor`. It may be as large as the weight, so that not
    /// all of them are kept.
    fn add_scales(&mut self, tensor: &'a MergedTensor, by_scales: Tensor) -> Result<()> {
        self.pending.1 += by_scales.elem_count() * by_scales.dtype().size_in_bytes();
        self.pending.0.push((tensor, by_scales));
        if self.pending.1 > PENDING_BYTES { self.flush() } else { Ok(()) }
    }

    /// Maps the pending gradients to the variables.
    fn flush(&mut self) -> Result<()> {
        let (tensors, by_scales): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).0.into_iter().unzip();
        for (tensor, by_scales) in tensors.into_iter().zip(to_host(&by_scales)?) {
            self.gradients.add(self.merge.pull_back(tensor, &by_scales)?)?;
            self.gradients.tensors.insert(tensor.spec.name.clone());
        }
        Ok(())
    }
}

/// Detaches `x` from any graph; with `with_gradient`, makes it the root of a new one.
fn tracked(x: &Tensor, with_gradient: bool) -> Result<Tensor> {
    Ok(if with_gradient && !x.is_variable() {
        Var::from_tensor(&x.detach())?.into_inner()
    } else {
        x.clone()
    })
}
