//! A trace: what one pass showed, then patches, first of streams and parts, then of the tensors of
//! the layers that those point to, then of the columns of the first tensor.

use std::collections::BTreeSet;

use candle_core::{DType, Tensor};
use serde::Serialize;

use super::attribution::{Attribution, attribute};
use super::columns::column_shares;
use super::drift::Drift;
use super::lens::{Lens, Reading};
use super::observe::{Observed, observe};
use super::patch::{Patched, Patching};
use super::place::{Part, Patch};
use super::subject::{Question, Subject};
use crate::checkpoint::{Architecture, TensorSpec};
use crate::error::Result;
use crate::model::{Half, Weights};

/// The tensors of all layers are patched in models of at most this many parameters, and in larger
/// ones only those of the layers of the [`PARTS`] parts that recover most.
const SMALL: usize = 100_000_000;

/// The number of parts whose layers are searched in a large model.
const PARTS: usize = 3;

/// The number of columns that are patched together.
const COLUMNS: usize = 8;

/// The passes through the layers that a trace makes.
pub(crate) const PASSES: usize = 4;

/// One model in a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelTrace {
    /// The answer by the logit lens at every place: after the embedding, then after each layer. The
    /// last is what the model answers.
    pub readings: Vec<Reading>,
    /// The parts' direct contributions to the answer token's logit.
    pub attribution: Attribution,
    /// The residual stream of the last token at every place, places x hidden.
    #[serde(skip)]
    pub residual: Vec<Vec<f32>>,
}

impl ModelTrace {
    /// Returns what the model answers.
    pub fn answer(&self) -> Reading {
        let none = Reading { log_prob: None, likeliest: 0 };
        self.readings.last().copied().unwrap_or(none)
    }
}

/// What a trace found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traced {
    /// The merge.
    pub merge: ModelTrace,
    /// The sources.
    pub sources: Vec<ModelTrace>,
    /// How far the merge is from each source.
    pub drifts: Vec<Drift>,
    /// The index of the source that patches are from.
    pub like: usize,
    /// The source's residual stream in place of the merge's, place by place.
    pub streams: Vec<Patched>,
    /// What each part of the source adds in place of what the merge's adds, the most recovering
    /// first.
    pub parts: Vec<Patched>,
    /// Each tensor of the source in place of the merged one, the most recovering first.
    pub tensors: Vec<Patched>,
    /// The share of each column in the departure of the first of `tensors` from the source's, the
    /// largest first, and what the first few columns recover; `None` if it is not a projection.
    pub columns: Option<(Vec<(usize, f64)>, Patched)>,
}

impl Traced {
    /// Returns the loss that a patch recovers, in nats.
    pub fn recovered(&self, patched: &Patched) -> f64 {
        self.merge.answer().loss() - patched.reading.loss()
    }

    /// Returns the loss of the merge less that of the source, in nats: what there is to recover.
    pub fn gap(&self) -> f64 {
        let source = self.sources.get(self.like).map_or(f64::NAN, |s| s.answer().loss());
        self.merge.answer().loss() - source
    }

    /// Returns the first place whose residual stream, taken from the source, brings back at least
    /// half of the answer's probability: what makes the answer wrong happens before it. `None` if
    /// the source does not give the answer a higher probability, or if the final norm or the output
    /// layer makes it wrong.
    pub fn first_place(&self) -> Option<usize> {
        let from = self.merge.answer().probability();
        let to = self.sources.get(self.like).map_or(from, |own| own.answer().probability());
        let is_half = |patched: &Patched| patched.reading.probability() >= (from + to) / 2.0;
        self.streams.iter().position(is_half).filter(|_| to > from)
    }
}

/// Traces the answer token of `question`. `after` is called [`PASSES`] times per layer, with a
/// description of what was done.
///
/// # Errors
/// A missing weight, ids outside the vocabulary, out of memory on the device, or
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub(crate) fn trace<W: Weights + ?Sized>(
    subject: &Subject<'_, W>,
    question: &Question<'_>,
    after: &mut dyn FnMut(String),
) -> Result<Traced> {
    let a = subject.architecture;
    let observed = observe(subject, question, &mut |l| after(format!("ran layer {l}")))?;
    let mut sources = Vec::with_capacity(subject.sources.len());
    for (i, source) in subject.sources.iter().enumerate() {
        let lens = Lens::new(source.architecture()?, &subject.source(i), subject.lacking(i))?;
        sources.push(model(&lens, &observed.last[i + 1], question)?);
    }
    let lens = Lens::new(a, subject.merge, &[])?;
    let merge = model(&lens, &observed.last[0], question)?;
    let patching = Patching { subject, question, observed: &observed, lens: &lens };

    let streams: Vec<Patch> = (0..=a.layers).map(Patch::Stream).collect();
    let places = streams.len();
    let parts = (0..a.layers).flat_map(|layer| Half::ALL.map(|half| Part::of(half, layer)));
    let parts = [Part::Embedding].into_iter().chain(parts).map(Patch::Part);
    let both = streams.into_iter().chain(parts).collect();
    let mut streams = patching.run(both, &mut |l| after(format!("patched layer {l}")))?;
    let parts = sorted(streams.split_off(places));

    let tensors = tensors(a, &parts);
    let message = |l| format!("patched the tensors of layer {l}");
    let tensors = sorted(patching.run(tensors, &mut |l| after(message(l)))?);

    let mut columns = None;
    if let Some(Patched { patch: Patch::Tensor(name), .. }) = tensors.first()
        && let Some(shares) = column_shares(subject, question, &observed, name)?
    {
        let first = shares.iter().take(COLUMNS).map(|(column, _)| *column).collect();
        let patch = vec![Patch::Columns(name.clone(), first)];
        let found = patching.run(patch, &mut |l| after(format!("patched columns, layer {l}")))?;
        columns = found.into_iter().next().map(|patched| (shares, patched));
    }
    let Observed { drifts, .. } = observed;
    Ok(Traced { merge, sources, drifts, like: question.like, streams, parts, tensors, columns })
}

/// Returns the tensors to patch, given `parts`, the most recovering first.
fn tensors(a: &Architecture, parts: &[Patched]) -> Vec<Patch> {
    let layer = |patched: &Patched| match patched.patch {
        Patch::Part(part) => part.layer(),
        _ => None,
    };
    let layers: BTreeSet<usize> = parts.iter().take(PARTS).filter_map(layer).collect();
    let is_searched = |l: usize| is_small(a) || layers.contains(&l);
    let searched = a.tensors().into_iter().filter(|spec| spec.layer().is_none_or(is_searched));
    searched.map(|spec| Patch::Tensor(spec.name)).collect()
}

/// Whether the tensors of all layers are patched.
fn is_small(a: &Architecture) -> bool {
    let elements = |spec: &TensorSpec| spec.shape.iter().product::<usize>();
    a.tensors().iter().map(elements).sum::<usize>() <= SMALL
}

/// Sorts patches by what they recover, the most first.
fn sorted(mut patches: Vec<Patched>) -> Vec<Patched> {
    patches.sort_by(|x, y| x.reading.loss().total_cmp(&y.reading.loss()));
    patches
}

/// Reads one model off its streams of the last token, (2 layers + 1) x hidden.
fn model(lens: &Lens<'_>, rows: &Tensor, question: &Question<'_>) -> Result<ModelTrace> {
    let count = rows.dim(0)?.div_ceil(2);
    let ends: Vec<u32> = (0..count as u32).map(|place| 2 * place).collect();
    let places = rows.index_select(&Tensor::new(ends, rows.device())?, 0)?;
    Ok(ModelTrace {
        readings: lens.read(&places, question.answer)?,
        attribution: attribute(lens, rows, question.answer)?,
        residual: places.to_dtype(DType::F32)?.to_vec2()?,
    })
}

/// Returns the bytes of all streams of a trace of `tokens` tokens: those that are kept of two
/// models, and those of the patches.
pub(crate) fn bytes(a: &Architecture, tokens: usize, dtype: DType) -> u64 {
    let tensors = if is_small(a) { a.tensors().len() } else { PARTS * a.layer_tensors(0).len() };
    let patches = tensors.max(3 * a.layers + 2);
    // Each patch's stream before and after half a layer.
    let streams = 2 * (2 * a.layers + 1) + 2 * patches;
    (streams * tokens * a.hidden * dtype.size_in_bytes()) as u64
}
