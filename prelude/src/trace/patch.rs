//! Patching: what a source has in one place is put in place of what the merge has there, the merge
//! runs on from there, and the answer's probability is read off.
//!
//! Patches begin at the kept streams of the merge and the source, so that a patch in layer `l` runs
//! layers from `l` on only. They run in step: each merged weight is computed once for all of them.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

use super::halves::{half_layer, half_layer_each};
use super::lens::{Lens, Reading};
use super::observe::Observed;
use super::place::{Part, Patch, half_of};
use super::subject::{Question, Subject, with_layer};
use crate::checkpoint::TensorSpec;
use crate::error::Result;
use crate::model::{Decoder, Half, Weights};

/// A patch and what it gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Patched {
    /// The patch.
    pub patch: Patch,
    /// What the merge answers with it.
    pub reading: Reading,
}

/// Patches of one merge from one source.
pub(super) struct Patching<'a, W: ?Sized> {
    pub subject: &'a Subject<'a, W>,
    pub question: &'a Question<'a>,
    pub observed: &'a Observed,
    /// The merge's final norm and output layer.
    pub lens: &'a Lens<'a>,
}

/// A stream that a patch changed.
struct Variant<'p> {
    patch: &'p Patch,
    /// The boundary at which it begins.
    begins: usize,
    x: Option<Tensor>,
}

impl<W: Weights + ?Sized> Patching<'_, W> {
    /// Applies each of `patches` alone and reads what the merge then answers. `after` is called
    /// with the index of each layer.
    ///
    /// # Errors
    /// A missing weight, or [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn run(&self, patches: Vec<Patch>, after: &mut dyn FnMut(usize)) -> Result<Vec<Patched>> {
        let a = self.subject.architecture;
        let variant = |patch| Variant { patch, begins: self.boundary(patch), x: None };
        let mut variants: Vec<Variant<'_>> = patches.iter().map(variant).collect();
        type Held = BTreeMap<String, Tensor>;
        let begin = |variants: &mut [Variant<'_>], now, held: Option<&Held>| -> Result<()> {
            for variant in variants.iter_mut().filter(|v| v.begins == now) {
                variant.x = Some(self.begin(variant.patch, now, held)?);
            }
            Ok(())
        };
        begin(&mut variants, 0, None)?;
        for layer in 0..a.layers {
            if variants.iter().any(|variant| variant.begins <= 2 * layer + 2) {
                with_layer(self.subject.merge, a, layer, |held| {
                    let decoder = Decoder::new(a, held);
                    for (k, half) in Half::ALL.into_iter().enumerate() {
                        let running = variants.iter_mut().filter_map(|v| v.x.as_mut());
                        let mut running: Vec<&mut Tensor> = running.collect();
                        let (at, ids) = ((half, layer), self.question.ids);
                        half_layer_each(self.subject, &decoder, at, ids, &mut running)?;
                        begin(&mut variants, 2 * layer + k + 1, Some(held))?;
                    }
                    Ok(())
                })?;
            }
            after(layer);
        }
        let ends = variants.iter().filter_map(|variant| variant.x.as_ref());
        let ends =
            ends.map(|x| Ok(x.narrow(0, x.dim(0)? - 1, 1)?.to_device(self.subject.device)?));
        let readings = self.read(&patches, &ends.collect::<Result<Vec<_>>>()?)?;
        let pair = |(patch, reading)| Patched { patch, reading };
        Ok(patches.into_iter().zip(readings).map(pair).collect())
    }

    /// Returns the boundary at which a patch begins, the first where the stream differs from the
    /// merge's. Boundary `2 l` is before layer `l`, `2 l + 1` between its halves.
    fn boundary(&self, patch: &Patch) -> usize {
        let a = self.subject.architecture;
        match patch {
            Patch::Stream(place) => 2 * place,
            Patch::Part(Part::Embedding) => 0,
            Patch::Part(Part::Attention(layer)) => 2 * layer + 1,
            Patch::Part(Part::Mlp(layer)) => 2 * layer + 2,
            Patch::Tensor(name) | Patch::Columns(name, _) => match half_of(a, name) {
                Some((half, layer)) => 2 * layer + 1 + usize::from(half == Half::Mlp),
                None if name == TensorSpec::EMBEDDING => 0,
                None => 2 * a.layers,
            },
            Patch::Part(Part::LogitCap) => 2 * a.layers,
        }
    }

    /// Returns the stream of `patch` at the boundary `now` where it begins; `held` are the merged
    /// weights of the layer before.
    fn begin(
        &self,
        patch: &Patch,
        now: usize,
        held: Option<&BTreeMap<String, Tensor>>,
    ) -> Result<Tensor> {
        let Observed { merge, like, .. } = self.observed;
        match (patch, held) {
            (Patch::Stream(_) | Patch::Part(Part::Embedding), _) => Ok(like[now].clone()),
            (Patch::Part(Part::Attention(_) | Part::Mlp(_)), _) => {
                let (before, after) = (like[now - 1].to_device(merge[now].device())?, &like[now]);
                let added = (after.to_device(merge[now].device())? - before)?;
                Ok((merge[now - 1].to_device(merge[now].device())? + added)?)
            }
            (Patch::Tensor(name) | Patch::Columns(name, _), held) => {
                let place = half_of(self.subject.architecture, name);
                let (Some((half, layer)), Some(held)) = (place, held) else {
                    let is_first = name == TensorSpec::EMBEDDING;
                    let own = if is_first { &like[now] } else { &merge[now] };
                    return replaced(&merge[now], own, patch);
                };
                let mut held = held.clone();
                let weight = self.weight(&held.weight(name)?, patch, name)?;
                held.insert(name.clone(), weight);
                let (_, positions) = self.subject.batch(self.question.ids, 1)?;
                let decoder = Decoder::new(self.subject.architecture, &held);
                half_layer(&decoder, half, layer, &merge[now - 1], &positions)
            }
            (Patch::Part(Part::LogitCap), _) => Ok(merge[now].clone()),
        }
    }

    /// Returns the merged weight `merged` of the tensor `name` after `patch`.
    fn weight(&self, merged: &Tensor, patch: &Patch, name: &str) -> Result<Tensor> {
        let own = self.subject.source_weight(self.question.like, name)?;
        replaced(merged, &own.to_device(merged.device())?, patch)
    }

    /// Reads the answer after each of `patches`, from the end of its stream, 1 x hidden.
    fn read(&self, patches: &[Patch], ends: &[Tensor]) -> Result<Vec<Reading>> {
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        let mut readings = self.lens.read(&Tensor::cat(ends, 0)?, self.question.answer)?;
        for ((patch, end), reading) in patches.iter().zip(ends).zip(&mut readings) {
            let (Patch::Tensor(name) | Patch::Columns(name, _)) = patch else { continue };
            if self.lens.has(name) {
                let weight = self.weight(&self.lens.weight(name)?, patch, name)?;
                let lens = self.lens.with(name, weight);
                lens.read(end, self.question.answer)?.into_iter().for_each(|one| *reading = one);
            }
        }
        Ok(readings)
    }
}

/// Returns `own` in place of `merged`, or only in the columns of the last dimension that `patch`
/// names.
fn replaced(merged: &Tensor, own: &Tensor, patch: &Patch) -> Result<Tensor> {
    let Patch::Columns(_, columns) = patch else { return Ok(own.clone()) };
    let width = merged.dims().last().copied().unwrap_or(1);
    let mask: Vec<u8> = (0..width).map(|j| u8::from(columns.contains(&j))).collect();
    let mask = Tensor::new(mask, merged.device())?.broadcast_as(merged.shape())?;
    Ok(mask.where_cond(own, merged)?.to_dtype(merged.dtype())?)
}
