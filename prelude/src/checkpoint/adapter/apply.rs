//! Puts an adapter on a model, in the order in which PEFT does: layers are stacked anew, the base is changed as it was
//! before training, stored tensors take their places, and then low-rank parts, magnitudes, biases and tokens act.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::super::view::View;
use super::base::Base;
use super::change::{Change, LowRank};
use super::magnitude::{Gains, gains};
use super::names::{mismatch, resolve};
use super::parts::LowRankPart;
use super::{Adapter, initial, replicate};
use crate::error::{Error, Result};

/// How a low-rank part acts on the stored weight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// out x in.
    Linear,
    /// in x out, as the layers of GPT-2 are.
    Transposed,
    /// tokens x features.
    Embedding,
}

/// Families whose layers of these names are stored transposed (`Conv1D` of transformers), and only those.
const TRANSPOSED_FAMILIES: [&str; 5] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"];
const TRANSPOSED_LAYERS: [&str; 4] = ["c_attn", "c_fc", "c_proj", "q_attn"];

/// The remedy where the file and its configuration do not belong together.
pub(super) const SAVED_WITH: &str = "use the adapter_config.json that was saved with these weights";

/// A low-rank part, and the weight that it acts on.
struct Placed<'a> {
    module: &'a str,
    weight: String,
    part: &'a LowRankPart,
    layout: Layout,
    term: LowRank,
    scale: f64,
}

impl Adapter {
    /// Puts the adapter on `base`.
    ///
    /// # Errors
    /// What does not fit the model, or cannot be followed.
    pub fn put_on(&self, base: &mut Base<'_>) -> Result<()> {
        replicate::replicate(self, base)?;
        let was_tied = base.is_tied;
        let (embedding, output) = (base.embedding.clone().unwrap_or_default(), base.output.clone());
        if was_tied && let Some(view) = base.tensors.get(&embedding).cloned() {
            base.tensors.insert(output.clone(), view);
        }
        // What is done to the one tensor of a tied base is done to both its names.
        let names = |weight: &str| match was_tied && (weight == embedding || weight == output) {
            true => vec![embedding.clone(), output.clone()],
            false => vec![weight.to_owned()],
        };
        let rows = base.tensors.get(&embedding).and_then(|view| view.shape.first().copied());
        let untouched = [&embedding, &output].map(|name| base.tensors.get(name).cloned());
        let mut replaced: BTreeMap<String, View> = BTreeMap::new();
        for (name, whole) in &self.parts.whole {
            let weight = self.find(base, name)?;
            self.check_whole(base, &weight, &whole.view, [&embedding, &output].contains(&&weight))?;
            for other in names(&weight).into_iter().filter(|other| *other == weight || whole.is_base) {
                // One that is named goes before one that only shares.
                if other == weight || !replaced.contains_key(&other) {
                    replaced.insert(other, whole.view.clone());
                }
            }
        }
        let stored_bases = self.parts.whole.iter().filter(|(_, whole)| whole.is_base);
        let stored_bases = stored_bases.map(|(name, _)| self.find(base, name)).collect::<Result<Vec<_>>>()?;
        let mut left_out = Vec::new();
        let mut placed = Vec::new();
        for (module, part) in &self.parts.low_rank {
            match self.config.targets(module)? {
                true => placed.push((module.as_str(), part, self.find(base, &format!("{module}.weight"))?)),
                false => left_out.push(module.as_str()),
            }
        }
        if let Some(first) = left_out.first().filter(|_| placed.is_empty()) {
            let reason = format!("none of the modules of its file is among them, as `{first}`");
            return Err(self.config.refused("target_modules", reason, SAVED_WITH));
        }
        let shape = |weight: &String| replaced.get(weight).unwrap_or(&base.tensors[weight]).shape.clone();
        let placed = placed.into_iter().map(|(module, part, weight)| self.place(base, module, shape(&weight), weight, part));
        let placed = placed.collect::<Result<Vec<_>>>()?;
        // The base as it was before training.
        let changed = |weight: &String| names(weight).iter().all(|name| !stored_bases.contains(name));
        let linear = placed.iter().filter(|placed| placed.layout != Layout::Embedding && changed(&placed.weight));
        let jobs: Vec<initial::Job<'_>> = linear.map(|placed| (placed.module, placed.weight.clone(), placed.term.rank)).collect();
        for (weight, change) in initial::changes(self, base, &jobs, |weight| is_transposed(&base.family, weight))? {
            for name in names(&weight) {
                base.tensors.entry(name).and_modify(|view| view.deltas.push(change.clone()));
            }
        }
        base.tensors.extend(replaced);
        // Of a tied pair whose changes are the same, the embedding has them.
        let follows = self.config.keeps_tied && was_tied && self.acts_on(base, &embedding);
        let placed = placed.into_iter().filter(|placed| !follows || placed.weight != output);
        let placed: Vec<Placed<'_>> = placed.collect();
        let biases = placed.iter().map(|placed| self.bias(base, placed)).collect::<Result<Vec<_>>>()?;
        let changes = placed.into_par_iter().map(|placed| {
            let weight = placed.weight.clone();
            Ok((weight.clone(), self.changes(&base.tensors[&weight], placed)?))
        });
        let changes: Vec<(String, Vec<Change>)> = changes.collect::<Result<_>>()?;
        for (weight, changes) in changes.into_iter().chain(biases.into_iter().flatten()) {
            if let Some(view) = base.tensors.get_mut(&weight) {
                view.deltas.extend(changes.into_iter().map(Arc::new));
            }
        }
        self.put_tokens(base, was_tied)?;
        self.say(base, &left_out, jobs.len());
        if was_tied {
            self.settle(base, untouched)?;
        }
        self.grow(base, rows)
    }

    /// The name of the base's tensor that `name` means.
    pub(super) fn find(&self, base: &Base<'_>, name: &str) -> Result<String> {
        resolve(base.tensors, name).ok_or_else(|| match mismatch(base.tensors, name) {
            Some(reason) => {
                let hint = format!("{}, or on a model whose names it has, as `{name}`", self.remedy());
                Error::Adapter { path: self.path.clone(), reason: reason.into(), hint }
            }
            None => {
                let reason = format!("the model that it is put on has no tensor `{name}`");
                self.config.refused("target_modules", reason, self.remedy())
            }
        })
    }

    /// The remedy where it does not fit the base.
    pub(super) fn remedy(&self) -> String {
        match &self.config.base {
            Some(base) => format!("it was trained on `{base}`: put it on that"),
            None => "put it on the model that it was trained on".into(),
        }
    }

    pub(super) fn misfit(&self, reason: String, hint: String) -> Error {
        Error::Adapter { path: self.path.clone(), reason, hint }
    }

    /// Whether the file has a low-rank part for the weight `name` of `base`.
    pub(super) fn acts_on(&self, base: &Base<'_>, name: &str) -> bool {
        let is = |module: &String| resolve(base.tensors, &format!("{module}.weight")).as_deref() == Some(name);
        self.parts.low_rank.keys().any(is)
    }

    /// An error where a whole tensor is not of the base's shape, but for the rows of a vocabulary.
    fn check_whole(&self, base: &Base<'_>, name: &str, view: &View, is_vocabulary: bool) -> Result<()> {
        let expected = &base.tensors[name].shape;
        let fits = match is_vocabulary {
            true => matches!((view.shape.as_slice(), expected.as_slice()), (&[rows, a], &[_, b]) if rows > 0 && a == b),
            false => view.shape == *expected,
        };
        match fits {
            true => Ok(()),
            false => Err(self
                .misfit(format!("its tensor `{name}` has shape {:?}, and the base's {expected:?}", view.shape), self.remedy())),
        }
    }

    /// A low-rank part in its place, its factors checked.
    fn place<'a>(
        &self,
        base: &Base<'_>,
        module: &'a str,
        found: Vec<usize>,
        weight: String,
        part: &'a LowRankPart,
    ) -> Result<Placed<'a>> {
        let file = &self.parts.file;
        let rank = part.rank(self)?;
        let missing = |kind: &str| Error::MissingTensor { file: file.clone(), tensor: format!("{module}.{kind}") };
        let (a, b) = (part.a.as_ref().ok_or_else(|| missing("lora_A"))?, part.b.as_ref().ok_or_else(|| missing("lora_B"))?);
        let &[out, other] = b.shape.as_slice() else {
            return Err(Error::Shape {
                file: file.clone(),
                tensor: format!("{module}.lora_B"),
                expected: vec![0, rank],
                found: b.shape.clone(),
            });
        };
        if rank != other || rank == 0 {
            let (tensor, expected) = (format!("{module}.lora_B"), vec![out, rank]);
            return Err(Error::Shape { file: file.clone(), tensor, expected, found: b.shape.clone() });
        }
        a.check_finite(&format!("{module}.lora_A"))?;
        b.check_finite(&format!("{module}.lora_B"))?;
        let layout = match part.is_embedding {
            true => Layout::Embedding,
            false if is_transposed(&base.family, &weight) => Layout::Transposed,
            false => Layout::Linear,
        };
        let scale = self.config.scale(module, rank)?;
        let (a, b) = (floats(a)?, (floats(b)? * scale)?);
        // The rows of an embedding are tokens, which A has; its columns come from B.
        let (left, right) = if layout == Layout::Linear { (b, a) } else { (a.t()?, b.t()?) };
        let (rows, columns) = (left.dims2()?.0, right.dims2()?.1);
        if found != [rows, columns] {
            let reason = format!("its part for `{module}` is for a weight of {rows} x {columns}, and the base's is {found:?}");
            let is_vocabulary = Some(&weight) == base.embedding.as_ref() || weight == base.output;
            let hint = match is_vocabulary && found.get(1) == Some(&columns) {
                true => format!(
                    "its training resized the vocabulary to {rows} rows: save the adapter with its embedding \
                     (save_pretrained(DIR, save_embedding_layers=True)), or resize and save the base first (resize_token_embeddings({rows}))"
                ),
                false => self.remedy(),
            };
            return Err(self.misfit(reason, hint));
        }
        let values = |t: Tensor| -> Result<Vec<f32>> { Ok(t.contiguous()?.flatten_all()?.to_vec1()?) };
        let term = LowRank { rank, columns, b: values(left)?, a: values(right)? };
        Ok(Placed { module, weight, part, layout, term, scale })
    }

    /// What `placed` does to its weight, which is `view` without it.
    fn changes(&self, view: &View, placed: Placed<'_>) -> Result<Vec<Change>> {
        let Some(magnitudes) = placed.part.magnitudes.as_ref().filter(|_| self.config.has_magnitudes) else {
            if self.config.has_magnitudes || placed.part.magnitudes.is_some() {
                let reason = match self.config.has_magnitudes {
                    true => format!("`{}` has no magnitudes in its file", placed.module),
                    false => format!("`{}` has magnitudes in its file, which are of DoRA", placed.module),
                };
                return Err(self.config.refused("use_dora", reason, SAVED_WITH));
            }
            return Ok(vec![Change::Add(placed.term)]);
        };
        let tensor = format!("{}.lora_magnitude_vector", placed.module);
        magnitudes.check_finite(&tensor)?;
        let along = if placed.layout == Layout::Linear { Gains::OfRows } else { Gains::OfColumns };
        let expected = if along == Gains::OfRows { view.shape[0] } else { view.columns() };
        if magnitudes.shape.iter().product::<usize>() != expected {
            let (file, found) = (self.parts.file.clone(), magnitudes.shape.clone());
            return Err(Error::Shape { file, tensor, expected: vec![expected], found });
        }
        let magnitudes: Vec<f32> = floats(magnitudes)?.flatten_all()?.to_vec1()?;
        let gains = gains(view, &placed.term, &magnitudes, along);
        if let Some(position) = gains.iter().position(|gain| !gain.is_finite()) {
            return Err(Error::NonFinite { file: self.parts.file.clone(), tensor, position, value: gains[position] });
        }
        let gain = match along {
            Gains::OfRows => Change::GainOfRows(gains),
            Gains::OfColumns => Change::GainOfColumns(gains),
        };
        Ok(vec![Change::Add(placed.term), gain])
    }

    /// What `placed` adds to the bias of its layer: `scale` times that of `B`.
    fn bias(&self, base: &Base<'_>, placed: &Placed<'_>) -> Result<Option<(String, Vec<Change>)>> {
        let Some(bias) = &placed.part.bias else { return Ok(None) };
        if !self.config.has_biases {
            let reason = format!("`{}` has a bias of `lora_B` in its file", placed.module);
            return Err(self.config.refused("lora_bias", reason, SAVED_WITH));
        }
        let name = placed.weight.strip_suffix("weight").map(|module| format!("{module}bias"));
        let found = name.and_then(|name| Some((base.tensors.get(&name)?.shape.clone(), name)));
        let Some((shape, name)) = found else {
            let reason = format!(
                "`{}` has a bias in the adapter, and none in the base, so that they have no weights together",
                placed.module
            );
            return Err(self.config.refused(
                "lora_bias",
                reason,
                "use a base whose layers have biases, or train without lora_bias",
            ));
        };
        if bias.shape != shape {
            let reason = format!("its bias for `{}` has shape {:?}, and the base's {shape:?}", placed.module, bias.shape);
            return Err(self.misfit(reason, self.remedy()));
        }
        bias.check_finite(&format!("{}.lora_B.bias", placed.module))?;
        let values: Vec<f32> = (floats(bias)? * placed.scale)?.to_vec1()?;
        let term = LowRank { rank: 1, columns: values.len(), b: vec![1.0], a: values };
        Ok(Some((name, vec![Change::Add(term)])))
    }
}

impl LowRankPart {
    /// Its rank.
    fn rank(&self, adapter: &Adapter) -> Result<usize> {
        let file = || adapter.parts.file.clone();
        match self.a.as_ref().map(|a| a.shape.as_slice()) {
            Some(&[rank, _]) => Ok(rank),
            Some(other) => {
                Err(Error::Shape { file: file(), tensor: "lora_A".into(), expected: vec![0, 0], found: other.to_vec() })
            }
            None => Err(Error::MissingTensor { file: file(), tensor: "*.lora_A.weight".into() }),
        }
    }
}

/// Whether the layer of `weight` is stored in x out.
fn is_transposed(family: &str, weight: &str) -> bool {
    let layer = weight.rsplit('.').nth(1).unwrap_or_default();
    TRANSPOSED_FAMILIES.contains(&family) && TRANSPOSED_LAYERS.contains(&layer)
}

pub(super) fn floats(view: &View) -> Result<Tensor> {
    Ok(view.to_tensor(&Device::Cpu)?.to_dtype(DType::F32)?)
}
