//! One pass of the merge over a batch: up through the layers, compared at the top, and down again.
//!
//! A layer's merged weights, and their gradients, are in memory only while that layer runs; they are
//! merged again on the way down, which costs little beside the layer itself. What a layer computed inside is
//! kept for its way down, or with `recompute` computed again from its input: then memory grows by one
//! hidden state a layer and token. A stop that is asked for is heeded before every layer, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use candle_core::{DType, Tensor, Var};

use crate::coefficients::{Merge, MergedPart, MergedTensor};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Decoder, Places, Weights};
use crate::ops::send_down;

/// How a pass is made.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// What the merged model computes in.
    pub dtype: DType,
    /// Whether there will be a way down.
    pub learn: bool,
    /// Whether layers are computed again on it.
    pub recompute: bool,
}

/// What a loss has taught.
#[derive(Default)]
pub struct Taught {
    /// Its gradient by variables of the merge that it reached, by their places: f32, on the CPU.
    pub gradients: BTreeMap<usize, Tensor>,
    /// The tensors that it reached.
    pub tensors: BTreeSet<String>,
}

impl Taught {
    /// Adds gradients by variables.
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

/// A batch at the top of the merge.
pub struct Pass<'a> {
    merge: &'a Merge,
    how: How,
    ids: Tensor,
    places: Places,
    embedded: Tensor,
    layers: Vec<Layer>,
    top: MergedPart<'a>,
    /// What the last layer gave: tokens x hidden.
    states: Tensor,
    /// Its gradient, run by run.
    downward: Vec<Tensor>,
    taught: Taught,
}

struct Layer {
    input: Tensor,
    output: Option<Tensor>,
}

/// The embedding's rows, taken already.
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
    /// Runs all layers of `merge` on `batch`.
    ///
    /// # Errors
    /// Ids outside the vocabulary, a device that has no room, or [`Error::Interrupted`].
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

    /// Calls `loss` with the logits of the next run of tokens, `rows` (in order, each run once), and gives
    /// back its terms, each a scalar. Their sum goes down with the others.
    ///
    /// # Errors
    /// What `loss` returns, a device that has no room, or [`Error::Interrupted`].
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

    /// Goes down through all layers, once every token has been compared.
    ///
    /// # Errors
    /// A device that has no room, or [`Error::Interrupted`].
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

    /// Takes the gradient by a merged weight on to what its coefficients are made of. Coefficients may be as many
    /// as weights: their gradient is not kept.
    fn add(&mut self, tensor: &MergedTensor, gradient: &Tensor) -> Result<()> {
        self.taught.add(self.merge.pull_back(tensor, gradient)?)?;
        self.taught.tensors.insert(tensor.spec.name.clone());
        Ok(())
    }
}

/// `x` apart from any graph; with `learn`, at the root of a new one.
fn tracked(x: &Tensor, learn: bool) -> Result<Tensor> {
    Ok(if learn && !x.is_variable() { Var::from_tensor(&x.detach())?.into_inner() } else { x.clone() })
}
