//! The forward and backward pass of the merge on a batch.
//!
//! A layer's merged weights and their gradients are in memory only while that layer runs. The backward pass merges
//! them again, which costs little compared with the layer. A layer's activations are kept for the backward pass, or
//! with `recompute` computed again from its input; memory then grows by one hidden state per layer and token. Before
//! every layer, in both directions, a stop request is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use candle_core::{DType, Tensor, Var};

use crate::coefficients::{Merge, MergedPart, MergedTensor};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Decoder, Places, Weights};
use crate::ops::send_down;

/// Options of a pass.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// The dtype of the computation.
    pub dtype: DType,
    /// Whether a backward pass follows.
    pub learn: bool,
    /// Whether the backward pass recomputes layers.
    pub recompute: bool,
}

/// The gradients of a loss.
#[derive(Default)]
pub struct Taught {
    /// The gradient by index of the merge's variable: f32, on the CPU.
    pub gradients: BTreeMap<usize, Tensor>,
    /// The tensors that the gradient reached.
    pub tensors: BTreeSet<String>,
}

impl Taught {
    /// Adds gradients by variable.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn add(&mut self, gradients: impl IntoIterator<Item = (usize, Tensor)>) -> Result<()> {
        for (variable, new) in gradients {
            let total = match self.gradients.remove(&variable) {
                Some(old) => (old + new)?,
                None => new,
            };
            self.gradients.insert(variable, total);
        }
        Ok(())
    }
}

/// A batch after the forward pass through the layers.
pub struct Pass<'a> {
    merge: &'a Merge,
    how: How,
    ids: Tensor,
    places: Places,
    embedded: Tensor,
    layers: Vec<Layer>,
    top: MergedPart<'a>,
    /// The output of the last layer: tokens x hidden.
    states: Tensor,
    /// The gradient of `states`, chunk by chunk.
    downward: Vec<Tensor>,
    taught: Taught,
}

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
    pub fn new(merge: &'a Merge, batch: &Batch, how: How) -> Result<Self> {
        let (ids, places) = (batch.ids.clone(), Places::new(&merge.architecture, &batch.lengths, 0));
        let embedded = merge.rows(merge.embedding()?, &ids)?.to_dtype(how.dtype)?;
        let embedded = tracked(&embedded, how.learn)?;
        let mut x = Decoder::new(&merge.architecture, &Embedded(&embedded)).embed(&ids)?;
        let mut layers = Vec::new();
        for layer in 0..merge.architecture.layers {
            let graph = how.learn && !how.recompute;
            let weights = merge.part(Some(layer), how.dtype, graph)?;
            let input = tracked(&x, graph)?;
            let output = Decoder::new(&merge.architecture, &weights).layer(layer, &input, &places)?;
            x = output.detach();
            if how.learn {
                layers.push(Layer { input, output: graph.then_some(output) });
            }
        }
        let top = merge.part(None, how.dtype, how.learn)?;
        Ok(Self { merge, how, ids, places, embedded, layers, top, states: x, downward: Vec::new(), taught: Taught::default() })
    }

    /// Calls `loss` with the logits of the next chunk of tokens, `rows` (in order, each chunk once), and returns its
    /// terms, each a scalar. The gradient of their sum enters the backward pass.
    ///
    /// # Errors
    /// The error of `loss`, out of memory on the device, or [`Error::Interrupted`].
    pub fn compare<N>(
        &mut self,
        rows: Range<usize>,
        loss: impl FnOnce(&Tensor) -> Result<Vec<(N, Tensor)>>,
    ) -> Result<Vec<(N, f64)>> {
        let x = tracked(&self.states.narrow(0, rows.start, rows.len())?, self.how.learn)?;
        let decoder = Decoder::new(&self.merge.architecture, &self.top);
        let terms = loss(&decoder.logits(&decoder.last_norm(&x)?)?)?;
        if self.how.learn && !terms.is_empty() {
            let (_, first) = &terms[0];
            let sum = terms[1..].iter().try_fold(first.clone(), |sum, (_, term)| sum + term)?;
            let mut gradients = sum.backward()?;
            self.downward.push(gradients.remove(&x).map_or_else(|| x.zeros_like(), Ok)?);
            for (tensor, gradient) in self.top.gradients(gradients) {
                self.add(tensor, &gradient)?;
            }
        }
        let value = |(name, term): (N, Tensor)| Ok((name, term.to_dtype(DType::F64)?.to_scalar()?));
        terms.into_iter().map(value).collect()
    }

    /// Runs the backward pass through all layers, after every token has been compared.
    ///
    /// # Errors
    /// Out of memory on the device, or [`Error::Interrupted`].
    pub fn backward(mut self) -> Result<Taught> {
        if self.downward.is_empty() {
            return Ok(self.taught);
        }
        for (tensor, gradient) in self.top.sums() {
            self.add(tensor, &gradient)?;
        }
        let mut down = Tensor::cat(&std::mem::take(&mut self.downward), 0)?;
        while let Some(Layer { input, output }) = self.layers.pop() {
            interrupt::check()?;
            let layer = self.layers.len();
            let weights = self.merge.part(Some(layer), self.how.dtype, true)?;
            let input = tracked(&input, true)?;
            let output = match output {
                Some(output) => output,
                None => Decoder::new(&self.merge.architecture, &weights).layer(layer, &input, &self.places)?,
            };
            let mut gradients = send_down(&output, &down)?.backward()?;
            down = gradients.remove(&input).map_or_else(|| input.zeros_like(), Ok)?;
            for (tensor, gradient) in weights.gradients(gradients).into_iter().chain(weights.sums()) {
                self.add(tensor, &gradient)?;
            }
        }
        let embedding = self.merge.embedding()?;
        if embedding.trains {
            let x = Decoder::new(&self.merge.architecture, &Embedded(&self.embedded)).embed(&self.ids)?;
            let gradients = send_down(&x, &down)?.backward()?;
            if let Some(gradient) = gradients.get(&self.embedded) {
                self.taught.add(self.merge.pull_back_rows(embedding, gradient, &self.ids)?)?;
                self.taught.tensors.insert(embedding.spec.name.clone());
            }
        }
        Ok(self.taught)
    }

    /// Maps the gradient of a merged weight to its variables. The gradient of the coefficients may be as large as the
    /// weight and is not kept.
    fn add(&mut self, tensor: &MergedTensor, gradient: &Tensor) -> Result<()> {
        self.taught.add(self.merge.pull_back(tensor, gradient)?)?;
        self.taught.tensors.insert(tensor.spec.name.clone());
        Ok(())
    }
}

/// Detaches `x` from any graph; with `learn`, makes it the root of a new one.
fn tracked(x: &Tensor, learn: bool) -> Result<Tensor> {
    Ok(if learn && !x.is_variable() { Var::from_tensor(&x.detach())?.into_inner() } else { x.clone() })
}
