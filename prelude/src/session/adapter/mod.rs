//! Writes a merge as a PEFT LoRA adapter of its base. Each matrix is approximated by a truncated
//! singular value decomposition, `M - W ~ B A` with `B = U sqrt(s)`, `A = sqrt(s) V^T` and
//! `lora_alpha = r`, so the scale is 1.
//!
//! | tensor | stored as |
//! | --- | --- |
//! | linear weight (out x in) | `lora_A` (r x in), `lora_B` (out x r) |
//! | embedding (tokens x hidden) | `lora_embedding_A` (r x tokens), `lora_embedding_B` (hidden x r) |
//! | bias of a linear layer | the bias itself, with `bias: all` |
//! | norm; tied embedding and output layer | the whole tensor, in `modules_to_save` |
//!
//! Differences within rounding error are not stored. Depending on its version, PEFT merges a LoRA
//! of a tied embedding twice or not at all; whole weights are correct in every version.

mod files;

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::DType;
use rayon::prelude::*;

use self::files::{Change, TensorChange};
use super::format::named;
use super::output::Output;
use crate::checkpoint::{
    BASE, Kind, OUTPUT, RetainedShare, Source, TensorSpec, Values, View, Written,
};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::ops::{Made, truncated};
use crate::vectorised::vectorised;

/// Families that store linear weights as in x out.
const TRANSPOSED: [&str; 4] = ["gpt2", "openai-gpt", "ctrl", "imagegpt"];

/// Elements compared per task.
const CHUNK: usize = 1 << 16;

/// Elements computed at a time.
const BLOCK: usize = 1 << 13;

/// Differences up to this fraction of the weights count as rounding error: two bits of f32.
const ROUNDING: f64 = 1.0 / (1 << 22) as f64;

/// A merge to write as an adapter.
pub(super) struct AsAdapter<'a> {
    pub output: &'a Output<'a>,
    /// The base model, if one is marked.
    pub base: Option<&'a Source>,
    /// The maximum rank of the factors.
    pub rank: usize,
}

/// A tensor of the merge, compared with the base's.
struct Compared<'a> {
    spec: &'a TensorSpec,
    /// The values of the merge.
    values: Values<'a>,
    base: &'a View,
    /// The sums of squares of the difference and of the merge.
    difference_squares: f64,
    size: f64,
}

impl AsAdapter<'_> {
    /// Writes the adapter to the new directory `directory`. `specs` are the tensors of the merge;
    /// `values` returns their elements.
    ///
    /// # Errors
    /// No base model, or more than one; a difference that an adapter cannot express; errors of
    /// writing a checkpoint.
    pub fn write<'s>(
        &self,
        directory: &Path,
        specs: &'s [&TensorSpec],
        values: impl Fn(&str) -> Result<Values<'s>>,
    ) -> Result<Written> {
        if self.rank == 0 {
            return Err(Error::bad_value("rank", "0", "an integer of at least 1"));
        }
        let dtype =
            self.output.options.dtype.as_deref().map(named).transpose()?.unwrap_or(DType::F32);
        let base = self.find_base()?;
        self.check(&base, specs)?;
        // A tied output layer has no tensor of its own.
        let is_tied = base.view(OUTPUT).is_err();
        let mut parts = Vec::new();
        for spec in specs {
            interrupt::check()?;
            if spec.name == OUTPUT && is_tied {
                parts.push(TensorChange::whole(spec, 0.0));
                continue;
            }
            let compared = Compared::new(spec, values(&spec.name)?, base.view(&spec.name)?);
            if compared.difference_squares > ROUNDING * ROUNDING * compared.size {
                parts.push(self.part(&compared)?);
            }
        }
        if is_tied && !specs.iter().any(|spec| spec.name == OUTPUT) {
            self.keep_tied(specs, &mut parts);
        }
        let kept = kept(&parts);
        files::write(self.output, directory, &base, parts, kept, dtype, &values)
    }

    /// Returns the change that turns the base's tensor into that of the merge.
    fn part(&self, compared: &Compared<'_>) -> Result<TensorChange> {
        let Compared { spec, difference_squares, .. } = compared;
        let refused = |what: &str| {
            let what = format!("tensor `{}` differs from the base's, and {what}", spec.name);
            Err(Error::Sources { what, hint: "write a full checkpoint: bake without as=adapter" })
        };
        if spec.name.contains(".experts.") {
            return refused(
                "transformers stores the experts of a layer in one tensor, which an adapter cannot change",
            );
        }
        let module = spec.name.strip_suffix(".weight");
        if module.is_none() && !spec.name.ends_with(".bias") {
            return refused("an adapter can only change weights and biases of modules");
        }
        match (spec.shape.as_slice(), module) {
            (&[rows, columns], Some(module)) => {
                let difference = |start: usize, out: &mut [f32]| compared.difference(start, out);
                let matrix = Made { name: &spec.name, rows, columns, fill: &difference };
                let deviation =
                    (compared.size / (rows * columns) as f64).sqrt() / f64::from(1u32 << 24);
                let noise = 2.0 * deviation * ((rows as f64).sqrt() + (columns as f64).sqrt());
                let factors = truncated(&matrix, self.rank, noise)?;
                if factors.rank == 0 {
                    return refused("its values are too large for a singular value decomposition");
                }
                let embedding = spec.kind == Kind::Embedding;
                Ok(TensorChange {
                    module: module.into(),
                    spec: (*spec).clone(),
                    difference_squares: *difference_squares,
                    change: Change::LowRank { factors, embedding },
                })
            }
            (&[_], _) => Ok(TensorChange::whole(spec, *difference_squares)),
            (shape, _) => refused(&format!("an adapter cannot change a tensor of shape {shape:?}")),
        }
    }

    /// If a tied embedding differs, stores it and the output layer whole.
    fn keep_tied(&self, specs: &[&TensorSpec], parts: &mut Vec<TensorChange>) {
        let Some(embedding) = specs.iter().find(|spec| spec.name == TensorSpec::EMBEDDING) else {
            return;
        };
        if let Some(part) = parts.iter_mut().find(|part| part.spec.name == embedding.name) {
            *part = TensorChange::whole(embedding, part.difference_squares);
            let output = TensorSpec {
                name: OUTPUT.into(),
                kind: Kind::Linear,
                shape: embedding.shape.clone(),
            };
            parts.push(TensorChange {
                change: Change::Whole { of: embedding.name.clone() },
                ..TensorChange::whole(&output, 0.0)
            });
        }
    }

    /// Returns the model the adapter applies to, as it is on disk: the marked base, or else the
    /// base of the sources' own adapters.
    fn find_base(&self) -> Result<Source> {
        let refuse = |what: String, hint: &'static str| Err(Error::Sources { what, hint });
        if let Some(base) = self.base {
            let (place, adapters) = base.base_and_adapters();
            if adapters.is_empty() {
                return Ok(base.original().clone());
            }
            return refuse(
                format!(
                    "the base is `{place}` with an adapter, but an adapter needs a base without one"
                ),
                "load the model without the adapter as base: load base=MODEL",
            );
        }
        let of = |source: &Source| {
            let (place, adapters) = source.base_and_adapters();
            (!adapters.is_empty()).then(|| place.to_owned())
        };
        let places: BTreeSet<String> = self.output.merged.iter().filter_map(of).collect();
        match places.into_iter().collect::<Vec<_>>().as_slice() {
            [place] => match self.output.loaded.iter().find(|source| source.spec() == place) {
                Some(loaded) => Ok(loaded.original().clone()),
                None => Source::open_as(Some(BASE), place),
            },
            [] => refuse(
                "an adapter needs a base model, and none is marked".into(),
                "run `load base=MODEL`, or load the sources as BASE+ADAPTER",
            ),
            several => refuse(
                format!(
                    "the merged adapters have different base models: `{}`",
                    several.join("`, `")
                ),
                "choose the base of the new adapter: load base=MODEL",
            ),
        }
    }

    /// Checks that an adapter of `base` can express the merge.
    fn check(&self, base: &Source, specs: &[&TensorSpec]) -> Result<()> {
        let whole = "write a full checkpoint: bake without as=adapter";
        let refuse = |what: String| Err(Error::Sources { what, hint: whole });
        if TRANSPOSED.contains(&base.family()) {
            return refuse(format!(
                "adapters for `{}` are not supported: it stores linear weights transposed",
                base.family()
            ));
        }
        for spec in specs {
            match base.view(&spec.name) {
                Ok(view) if view.shape == spec.shape => {}
                Ok(view) => {
                    let [ours, theirs] =
                        [&spec.shape, &view.shape].map(|shape| format!("{shape:?}"));
                    return refuse(format!(
                        "tensor `{}` has shape {ours} in the merge and {theirs} in the base",
                        spec.name
                    ));
                }
                Err(_) if spec.name == OUTPUT => {}
                Err(_) => {
                    return refuse(format!(
                        "the merge has a tensor `{}`, and the base does not",
                        spec.name
                    ));
                }
            }
        }
        let has = |name: &str| specs.iter().any(|spec| spec.name == name);
        if let Some(missing) = base.tensors().iter().find(|spec| !has(&spec.name)) {
            return refuse(format!(
                "the base has a tensor `{}`, and the merge does not",
                missing.name
            ));
        }
        // Equal rows of the vocabulary must stand for equal tokens.
        let reference = self
            .output
            .loaded
            .iter()
            .chain(self.output.merged)
            .find(|s| s.numbering().is_some_and(|n| n.is_reference));
        let (Some(ours), Some(theirs)) = (reference.and_then(Source::tokenizer), base.tokenizer())
        else {
            return Ok(());
        };
        let ours = ours.get_vocab(true);
        match theirs
            .get_vocab(true)
            .into_iter()
            .filter(|(token, id)| ours.get(token) != Some(id))
            .min()
        {
            Some((token, _)) => {
                refuse(format!("the token `{token}` has different ids in the merge and the base"))
            }
            None => Ok(()),
        }
    }
}

impl<'a> Compared<'a> {
    fn new(spec: &'a TensorSpec, values: Values<'a>, base: &'a View) -> Self {
        let elements: usize = spec.shape.iter().product();
        let mut compared = Self { spec, values, base, difference_squares: 0.0, size: 0.0 };
        let sums = (0..elements.div_ceil(CHUNK)).into_par_iter().map(|i| {
            let mut ours = [0f32; BLOCK];
            let mut theirs = [0f32; BLOCK];
            let (mut difference_squares, mut size) = (0f64, 0f64);
            for start in (i * CHUNK..elements.min((i + 1) * CHUNK)).step_by(BLOCK) {
                let count = BLOCK.min(elements - start);
                let ours = &mut ours[..count];
                let theirs = &mut theirs[..count];
                (compared.values)(start, ours);
                read(base, start, theirs);
                for (m, w) in ours.iter().zip(&*theirs) {
                    let (m, w) = (f64::from(*m), f64::from(*w));
                    difference_squares += (m - w) * (m - w);
                    size += m * m;
                }
            }
            (difference_squares, size)
        });
        for (difference_squares, size) in sums.collect::<Vec<_>>() {
            compared.difference_squares += difference_squares;
            compared.size += size;
        }
        base.release();
        compared
    }

    /// Writes elements of the difference, from `start` on, to `out`.
    fn difference(&self, start: usize, out: &mut [f32]) {
        (self.values)(start, out);
        let mut base = [0f32; BLOCK];
        for (i, out) in out.chunks_mut(BLOCK).enumerate() {
            let base = &mut base[..out.len()];
            read(self.base, start + i * BLOCK, base);
            out.iter_mut().zip(base).for_each(|(m, w)| *m -= *w);
        }
    }
}

fn read(view: &View, start: usize, into: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || view.read(start, into),
    );
}

/// Measures how much of the difference the adapter retains.
fn kept(parts: &[TensorChange]) -> RetainedShare {
    let share = |lost: f64, whole: f64| {
        if whole > 0.0 { (1.0 - lost / whole).max(0.0).sqrt() } else { 1.0 }
    };
    let mut kept = RetainedShare { rank: 0, share: 1.0, tensors: Vec::new() };
    let (mut lost, mut whole) = (0.0, 0.0);
    for part in parts {
        whole += part.difference_squares;
        if let Change::LowRank { factors, .. } = &part.change {
            lost += factors.lost;
            kept.rank = kept.rank.max(factors.rank);
            kept.tensors.push((
                part.spec.name.clone(),
                factors.rank,
                share(factors.lost, factors.whole),
            ));
        }
    }
    kept.share = share(lost, whole);
    kept
}
