//! Applies an adapter to a model in the same order as PEFT: layer replication, initial changes to
//! the base, stored tensors, then low-rank parts, magnitudes, biases and trainable tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::base::Base;
use super::config::MERGE_HINT;
use super::magnitude::{NormAxis, gains};
use super::names::{mismatch, resolve};
use super::parts::LowRankPart;
use super::{Adapter, initial, replicate};
use crate::checkpoint::storage::View;
use crate::checkpoint::storage::{Change, LowRank};
use crate::error::{Error, Result};

/// The layout of the stored weight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// out x in.
    Linear,
    /// in x out, as in GPT-2.
    Transposed,
    /// tokens x features.
    Embedding,
}

/// Families whose layers of the names below are stored transposed (`Conv1D` in transformers).
/// Others are not.
const TRANSPOSED_FAMILIES: [&str; 5] =
    ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"];
const TRANSPOSED_LAYERS: [&str; 4] = ["c_attn", "c_fc", "c_proj", "q_attn"];

/// The hint for weights that do not match their configuration.
pub(super) const MATCHING_CONFIG_HINT: &str =
    "use the adapter_config.json that was saved with these weights";

/// A low-rank part with the weight it applies to.
struct LowRankTarget<'a> {
    module: &'a str,
    weight: String,
    part: &'a LowRankPart,
    layout: Layout,
    term: LowRank,
    scale: f64,
}

impl Adapter {
    /// Applies the adapter to `base`.
    ///
    /// # Errors
    /// Tensors that do not fit the model, or unsupported keys.
    pub fn apply_to(&self, base: &mut Base<'_>) -> Result<()> {
        replicate::replicate(self, base)?;
        let was_tied = base.is_tied;
        let (embedding, output) = (base.embedding.clone().unwrap_or_default(), base.output.clone());
        if was_tied && let Some(view) = base.tensors.get(&embedding).cloned() {
            base.tensors.insert(output.clone(), view);
        }
        // A tied base has one tensor under two names; changes to either name apply to both.
        let names = |weight: &str| {
            if was_tied && (weight == embedding || weight == output) {
                vec![embedding.clone(), output.clone()]
            } else {
                vec![weight.to_owned()]
            }
        };
        let rows = base.tensors.get(&embedding).and_then(|view| view.shape.first().copied());
        let untouched = [&embedding, &output].map(|name| base.tensors.get(name).cloned());
        let mut replaced: BTreeMap<String, View> = BTreeMap::new();
        for (name, whole) in &self.parts.whole {
            let weight = self.find(base, name)?;
            self.check_shape(base, &weight, &whole.view, [&embedding, &output].contains(&&weight))?;
            for other in
                names(&weight).into_iter().filter(|other| *other == weight || whole.is_base)
            {
                // A full tensor under its own name takes precedence over a tied one.
                if other == weight || !replaced.contains_key(&other) {
                    replaced.insert(other, whole.view.clone());
                }
            }
        }
        let stored_bases = self.parts.whole.iter().filter(|(_, whole)| whole.is_base);
        let stored_bases =
            stored_bases.map(|(name, _)| self.find(base, name)).collect::<Result<Vec<_>>>()?;
        let mut left_out = Vec::new();
        let mut targets = Vec::new();
        for (module, part) in &self.parts.low_rank {
            if self.config.targets(module)? {
                targets.push((module.as_str(), part, self.find(base, &format!("{module}.weight"))?))
            } else {
                left_out.push(module.as_str())
            }
        }
        if let Some(first) = left_out.first().filter(|_| targets.is_empty()) {
            let reason =
                format!("it matches none of the modules in the weight file, for example `{first}`");
            return Err(self.config.key_error("target_modules", reason, MATCHING_CONFIG_HINT));
        }
        let shape =
            |weight: &String| replaced.get(weight).unwrap_or(&base.tensors[weight]).shape.clone();
        let targets = targets.into_iter().map(|(module, part, weight)| {
            self.low_rank_target(base, module, shape(&weight), weight, part)
        });
        let targets = targets.collect::<Result<Vec<_>>>()?;
        // The base as it was before training.
        let changed =
            |weight: &String| names(weight).iter().all(|name| !stored_bases.contains(name));
        let linear = targets
            .iter()
            .filter(|target| target.layout != Layout::Embedding && changed(&target.weight));
        let jobs: Vec<initial::Job<'_>> =
            linear.map(|target| (target.module, target.weight.clone(), target.term.rank)).collect();
        for (weight, change) in
            initial::changes(self, base, &jobs, |weight| is_transposed(&base.family, weight))?
        {
            for name in names(&weight) {
                base.tensors.entry(name).and_modify(|view| view.deltas.push(change.clone()));
            }
        }
        base.tensors.extend(replaced);
        // If both tensors of a tied pair get the same changes, only the embedding needs them.
        let follows = self.config.keeps_tied && was_tied && self.has_part_for(base, &embedding);
        let targets = targets.into_iter().filter(|target| !follows || target.weight != output);
        let targets: Vec<LowRankTarget<'_>> = targets.collect();
        let biases =
            targets.iter().map(|target| self.bias(base, target)).collect::<Result<Vec<_>>>()?;
        let changes = targets.into_par_iter().map(|target| {
            let weight = target.weight.clone();
            Ok((weight.clone(), self.changes(&base.tensors[&weight], target)?))
        });
        let changes: Vec<(String, Vec<Change>)> = changes.collect::<Result<_>>()?;
        for (weight, changes) in changes.into_iter().chain(biases.into_iter().flatten()) {
            if let Some(view) = base.tensors.get_mut(&weight) {
                view.deltas.extend(changes.into_iter().map(Arc::new));
            }
        }
        self.put_tokens(base, was_tied)?;
        self.add_notes(base, &left_out, jobs.len());
        if was_tied {
            self.resolve_tying(base, untouched)?;
        }
        self.update_vocab_size(base, rows)
    }

    /// The name of the base tensor that `name` refers to.
    pub(super) fn find(&self, base: &Base<'_>, name: &str) -> Result<String> {
        resolve(base.tensors, name).ok_or_else(|| match mismatch(base.tensors, name) {
            Some(reason) => {
                let hint =
                    format!("{}, or to a model with a tensor named `{name}`", self.base_hint());
                Error::Adapter { path: self.path.clone(), reason: reason.into(), hint }
            }
            None => {
                let reason = format!("the base model has no tensor `{name}`");
                match self.config.task.as_deref().filter(|task| *task != "CAUSAL_LM") {
                    Some(task) => self.config.key_error(
                        "task_type",
                        format!("{reason}: the head for `{task}` belongs to the adapter"),
                        MERGE_HINT,
                    ),
                    None => self.config.key_error("target_modules", reason, self.base_hint()),
                }
            }
        })
    }

    /// The hint for an adapter that does not fit the base.
    pub(super) fn base_hint(&self) -> String {
        match &self.config.base {
            Some(base) => format!("apply it to the model it was trained on, `{base}`"),
            None => "apply it to the model it was trained on".into(),
        }
    }

    pub(super) fn mismatch_error(&self, reason: String, hint: String) -> Error {
        Error::Adapter { path: self.path.clone(), reason, hint }
    }

    /// Whether the adapter has a low-rank part for the weight `name` of `base`.
    pub(super) fn has_part_for(&self, base: &Base<'_>, name: &str) -> bool {
        let is = |module: &String| {
            resolve(base.tensors, &format!("{module}.weight")).as_deref() == Some(name)
        };
        self.parts.low_rank.keys().any(is)
    }

    /// Returns an error if a full tensor does not have the base's shape. Vocabularies may differ in
    /// rows.
    fn check_shape(
        &self,
        base: &Base<'_>,
        name: &str,
        view: &View,
        is_vocabulary: bool,
    ) -> Result<()> {
        let expected = &base.tensors[name].shape;
        let fits = if is_vocabulary {
            matches!((view.shape.as_slice(), expected.as_slice()), (&[rows, a], &[_, b]) if rows > 0 && a == b)
        } else {
            view.shape == *expected
        };
        if fits {
            Ok(())
        } else {
            Err(self.mismatch_error(
                format!(
                    "its tensor `{name}` has shape {:?}, but the base's has {expected:?}",
                    view.shape
                ),
                self.base_hint(),
            ))
        }
    }

    /// Checks the factors of a low-rank part and pairs it with its weight.
    fn low_rank_target<'a>(
        &self,
        base: &Base<'_>,
        module: &'a str,
        found: Vec<usize>,
        weight: String,
        part: &'a LowRankPart,
    ) -> Result<LowRankTarget<'a>> {
        let file = &self.parts.file;
        let rank = part.rank(self)?;
        let missing = |kind: &str| Error::MissingTensor {
            file: file.clone(),
            tensor: format!("{module}.{kind}"),
        };
        let (a, b) = (
            part.a.as_ref().ok_or_else(|| missing("lora_A"))?,
            part.b.as_ref().ok_or_else(|| missing("lora_B"))?,
        );
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
            return Err(Error::Shape {
                file: file.clone(),
                tensor,
                expected,
                found: b.shape.clone(),
            });
        }
        a.check_finite(&format!("{module}.lora_A"))?;
        b.check_finite(&format!("{module}.lora_B"))?;
        let layout = if part.is_embedding {
            Layout::Embedding
        } else if is_transposed(&base.family, &weight) {
            Layout::Transposed
        } else {
            Layout::Linear
        };
        let scale = self.config.scale(module, rank)?;
        let (a, b) = (floats(a)?, (floats(b)? * scale)?);
        // For an embedding, the rows of the weight are tokens and come from A; the columns come
        // from B.
        let (left, right) = if layout == Layout::Linear { (b, a) } else { (a.t()?, b.t()?) };
        let (rows, columns) = (left.dims2()?.0, right.dims2()?.1);
        if found != [rows, columns] {
            let reason = format!(
                "its part for `{module}` needs a weight of {rows} x {columns}, but the base's is {found:?}"
            );
            let is_vocabulary = Some(&weight) == base.embedding.as_ref() || weight == base.output;
            let hint = if is_vocabulary && found.get(1) == Some(&columns) {
                format!(
                    "training resized the vocabulary to {rows} rows: save the adapter with its embedding \
                     (save_pretrained(DIR, save_embedding_layers=True)), or resize and save the base first (resize_token_embeddings({rows}))"
                )
            } else {
                self.base_hint()
            };
            return Err(self.mismatch_error(reason, hint));
        }
        let values =
            |t: Tensor| -> Result<Vec<f32>> { Ok(t.contiguous()?.flatten_all()?.to_vec1()?) };
        let term = LowRank { rank, columns, b: values(left)?, a: values(right)? };
        Ok(LowRankTarget { module, weight, part, layout, term, scale })
    }

    /// The changes that `target` makes to its weight; `view` is the weight before them.
    fn changes(&self, view: &View, target: LowRankTarget<'_>) -> Result<Vec<Change>> {
        let Some(magnitudes) =
            target.part.magnitudes.as_ref().filter(|_| self.config.has_magnitudes)
        else {
            if self.config.has_magnitudes || target.part.magnitudes.is_some() {
                let reason = if self.config.has_magnitudes {
                    format!("the weight file has no magnitudes for `{}`", target.module)
                } else {
                    format!("the weight file has DoRA magnitudes for `{}`", target.module)
                };
                return Err(self.config.key_error("use_dora", reason, MATCHING_CONFIG_HINT));
            }
            return Ok(vec![Change::Add(target.term)]);
        };
        let tensor = format!("{}.lora_magnitude_vector", target.module);
        magnitudes.check_finite(&tensor)?;
        let along =
            if target.layout == Layout::Linear { NormAxis::Rows } else { NormAxis::Columns };
        let expected = if along == NormAxis::Rows { view.shape[0] } else { view.columns() };
        if magnitudes.shape.iter().product::<usize>() != expected {
            let (file, found) = (self.parts.file.clone(), magnitudes.shape.clone());
            return Err(Error::Shape { file, tensor, expected: vec![expected], found });
        }
        let magnitudes: Vec<f32> = floats(magnitudes)?.flatten_all()?.to_vec1()?;
        let gains = gains(view, &target.term, &magnitudes, along);
        if let Some(position) = gains.iter().position(|gain| !gain.is_finite()) {
            return Err(Error::NonFinite {
                file: self.parts.file.clone(),
                tensor,
                position,
                value: gains[position],
            });
        }
        let gain = match along {
            NormAxis::Rows => Change::GainOfRows(gains),
            NormAxis::Columns => Change::GainOfColumns(gains),
        };
        Ok(vec![Change::Add(target.term), gain])
    }

    /// What `target` adds to the bias of its layer: `scale` times the bias of `B`.
    fn bias(
        &self,
        base: &Base<'_>,
        target: &LowRankTarget<'_>,
    ) -> Result<Option<(String, Vec<Change>)>> {
        let Some(bias) = &target.part.bias else { return Ok(None) };
        if !self.config.has_biases {
            let reason = format!("the weight file has a `lora_B` bias for `{}`", target.module);
            return Err(self.config.key_error("lora_bias", reason, MATCHING_CONFIG_HINT));
        }
        let name = target.weight.strip_suffix("weight").map(|module| format!("{module}bias"));
        let found = name.and_then(|name| Some((base.tensors.get(&name)?.shape.clone(), name)));
        let Some((shape, name)) = found else {
            let reason = format!(
                "`{}` has a bias in the adapter but not in the base, so it cannot be merged",
                target.module
            );
            return Err(self.config.key_error(
                "lora_bias",
                reason,
                "use a base whose layers have biases, or train without lora_bias",
            ));
        };
        if bias.shape != shape {
            let reason = format!(
                "its bias for `{}` has shape {:?}, but the base's has {shape:?}",
                target.module, bias.shape
            );
            return Err(self.mismatch_error(reason, self.base_hint()));
        }
        bias.check_finite(&format!("{}.lora_B.bias", target.module))?;
        let values: Vec<f32> = (floats(bias)? * target.scale)?.to_vec1()?;
        let term = LowRank { rank: 1, columns: values.len(), b: vec![1.0], a: values };
        Ok(Some((name, vec![Change::Add(term)])))
    }
}

impl LowRankPart {
    /// The rank of the part.
    fn rank(&self, adapter: &Adapter) -> Result<usize> {
        let file = || adapter.parts.file.clone();
        match self.a.as_ref().map(|a| a.shape.as_slice()) {
            Some(&[rank, _]) => Ok(rank),
            Some(other) => Err(Error::Shape {
                file: file(),
                tensor: "lora_A".into(),
                expected: vec![0, 0],
                found: other.to_vec(),
            }),
            None => Err(Error::MissingTensor { file: file(), tensor: "*.lora_A.weight".into() }),
        }
    }
}

/// Whether the layer of `weight` is stored as in x out.
fn is_transposed(family: &str, weight: &str) -> bool {
    let layer = weight.rsplit('.').nth(1).unwrap_or_default();
    TRANSPOSED_FAMILIES.contains(&family) && TRANSPOSED_LAYERS.contains(&layer)
}

pub(super) fn floats(view: &View) -> Result<Tensor> {
    Ok(view.to_tensor(&Device::Cpu)?.to_dtype(DType::F32)?)
}
