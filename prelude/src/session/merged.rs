//! A merge by a static method: it can be scored, prompted, inspected and baked without being
//! written first.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use rayon::prelude::*;
use tempfile::TempDir;

use super::adapter::AsAdapter;
use super::bake_options::Bake;
use super::matching::matching;
use super::models::Models;
use super::on_threads;
use super::output::{Output, last};
use super::score::{EvalData, Evaluation, Scorer};
use crate::checkpoint::{Content, Source, TensorSpec, Written};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::methods::{Plan, Planned};
use crate::show::{Distance, Distances, MergeReport, Scoreboard, Scores, TensorDistances};

/// A merge by a method without training. Cheap to clone; weights are computed when they are needed.
#[derive(Clone)]
pub struct Merged(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    models: Models,
    plan: Arc<Plan>,
    /// The text of the recipe of this merge, which makes it again from the same sources.
    recipe: Option<Arc<str>>,
    /// Temporary merges that this one is made of; they live as long as it does.
    #[allow(dead_code, reason = "dropping it is its use")]
    parts: Vec<Arc<TempDir>>,
}

impl Merged {
    /// Whether both are the same merge.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn new(models: Models, plan: Plan) -> Self {
        Self(Arc::new(Inner { models, plan: Arc::new(plan), recipe: None, parts: Vec::new() }))
    }

    /// Returns the merge with ownership of the temporary merges that it is made of.
    pub(super) fn with_parts(&self, parts: Vec<Arc<TempDir>>) -> Self {
        Self(Arc::new(Inner { parts, ..(*self.0).clone() }))
    }

    /// Returns the merge with the text of its recipe.
    pub(super) fn with_recipe(&self, text: &str) -> Self {
        Self(Arc::new(Inner { recipe: Some(text.into()), ..(*self.0).clone() }))
    }

    /// Returns the recipe that makes it again from the same sources, if it came from a search.
    pub(crate) fn recipe(&self) -> Option<&str> {
        self.0.recipe.as_deref()
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// Returns the merge with the data and settings of `models`.
    pub fn with_models(&self, models: &Models) -> Self {
        let mut inner = (*self.0).clone();
        inner.models.data.extend(models.data.clone());
        inner.models.settings = models.settings.clone();
        Self(Arc::new(inner))
    }

    /// Returns the models it merges, with their data and settings.
    pub fn models(&self) -> &Models {
        &self.0.models
    }

    /// Returns a report of the sources and the method.
    pub fn report(&self) -> MergeReport {
        let Inner { plan, .. } = &*self.0;
        MergeReport {
            method: plan.method.into(),
            sources: plan.sources.iter().map(|s| s.name().to_owned()).collect(),
            base: plan.base.as_ref().map(|s| s.name().to_owned()),
            tensors: plan.tensors.len(),
            parameters: plan.tensors.iter().map(|t| t.operands.elements()).sum(),
            written: None,
            copied: plan.buffers.keys().cloned().collect(),
            notes: plan.notes.clone(),
        }
    }

    /// Scores the merge on data files. Without files, uses the held-out data of built-in sources,
    /// or else the session's own data.
    ///
    /// # Errors
    /// The data is invalid, or the model family cannot be run.
    pub fn eval(&self, files: &[String]) -> Result<Scores> {
        self.eval_with(&Evaluation::of(files))
    }

    /// Scores the merge on data files and tasks, with limits.
    ///
    /// # Errors
    /// The data is invalid, a task cannot be followed, or the model family cannot be run.
    pub fn eval_with(&self, evaluation: &Evaluation) -> Result<Scores> {
        self.with_scorer(|scorer, plan| {
            let data = scorer.eval_data(evaluation)?;
            scorer.score(&plan.weights(scorer.device, scorer.dtype), &data)
        })
    }

    pub(super) fn score_on(&self, data: &EvalData) -> Result<Scores> {
        self.with_scorer(|scorer, plan| {
            scorer.score(&plan.weights(scorer.device, scorer.dtype), data)
        })
    }

    /// Scores every source, their average and the merge (the last row).
    ///
    /// # Errors
    /// As for [`Merged::eval`].
    pub fn scoreboard(&self, files: &[String]) -> Result<Scoreboard> {
        self.scoreboard_with(&Evaluation::of(files))
    }

    /// Scores every source, their average and the merge (the last row) as [`Merged::eval_with`]
    /// does.
    ///
    /// # Errors
    /// As for [`Merged::eval_with`].
    pub fn scoreboard_with(&self, evaluation: &Evaluation) -> Result<Scoreboard> {
        self.with_scorer(|scorer, plan| {
            scorer.scoreboard(plan.method, &plan.weights(scorer.device, scorer.dtype), evaluation)
        })
    }

    pub(super) fn with_scorer<T: Send>(
        &self,
        f: impl FnOnce(&Scorer<'_>, &Plan) -> Result<T> + Send,
    ) -> Result<T> {
        let Inner { models, plan, .. } = &*self.0;
        models.settings.check()?;
        plan.models.iter().try_for_each(Source::check_unchanged)?;
        let architecture = plan.architecture()?;
        let (device, dtype): (Device, DType) = models.settings.device_and_dtype(&plan.models)?;
        let scorer =
            Scorer { models, sources: &plan.sources, architecture, device: &device, dtype };
        on_threads(models.settings.threads, || f(&scorer, plan))
    }

    /// Reports the distances of the selected tensors from each source. `pattern` is a name, a glob
    /// or a part of a name; `""` selects all.
    ///
    /// # Errors
    /// The pattern matches no tensor, or the method cannot merge a tensor.
    pub fn inspect(&self, pattern: &str) -> Result<Distances> {
        let Inner { models, plan, .. } = &*self.0;
        plan.models.iter().try_for_each(Source::check_unchanged)?;
        let found = matching(pattern, plan.tensors.iter(), |t| &t.operands.spec().name)?;
        let tensors = on_threads(models.settings.threads, || {
            found.into_iter().map(distances).collect::<Result<_>>()
        })?;
        Ok(Distances { method: plan.method.into(), tensors })
    }

    /// Writes the merge as a Hugging Face checkpoint to a new directory, or as a GGUF file if
    /// `directory` ends in `.gguf`.
    ///
    /// # Errors
    /// The method cannot merge a tensor, the dtype cannot hold a value, or the directory exists, is
    /// not writable or its disk is full. No partial output remains.
    pub fn bake(&self, directory: impl AsRef<Path>) -> Result<Written> {
        self.bake_with(directory, &Bake::default())
    }

    /// Like [`Merged::bake`], with options. It needs no forward pass, so models of any family can
    /// be merged. It needs little memory: sources are memory-mapped, and the merge is written block
    /// by block.
    ///
    /// # Errors
    /// As for `bake`.
    pub fn bake_with(&self, directory: impl AsRef<Path>, options: &Bake) -> Result<Written> {
        let Inner { models, plan, .. } = &*self.0;
        plan.models.iter().try_for_each(Source::check_files_unchanged)?;
        let options = Bake {
            dtype: options.dtype.clone().or_else(|| plan.dtype.map(str::to_owned)),
            ..options.clone()
        };
        let output = Output {
            options: &options,
            loaded: &models.sources,
            merged: &plan.models,
            configured: Some(&plan.configured),
            tokenizer: plan.tokenizer.as_ref(),
            restacked: plan.restacked.as_ref(),
            card: self.card(),
        };
        let directory = directory.as_ref();
        if let Some(rank) = options.adapter {
            let specs: Vec<&TensorSpec> = plan.tensors.iter().map(|t| t.operands.spec()).collect();
            let adapter =
                AsAdapter { output: &output, base: plan.base.as_ref().or(models.base()), rank };
            return on_threads(models.settings.threads, || {
                adapter.write(directory, &specs, |name| plan.tensor(name)?.values())
            });
        }
        let mut entries =
            output.entries(plan.tensors.iter().map(|t| (t.operands.spec(), t.operands.dtype())))?;
        entries.extend(output.copied(&plan.buffers));
        let planned: BTreeMap<&str, &Planned> =
            plan.tensors.iter().map(|t| (t.operands.spec().name.as_str(), t)).collect();
        on_threads(models.settings.threads, || {
            output.write(directory, entries, |entry| {
                match (plan.buffers.get(&entry.name), planned.get(entry.name.as_str())) {
                    (Some(buffer), _) => Ok(Content::Bytes(buffer.bytes())),
                    (None, Some(planned)) => Ok(Content::Values(planned.values()?)),
                    (None, None) => Err(Error::NoMatch { pattern: entry.name.clone() }),
                }
            })
        })
    }

    /// Returns the model card: what was merged, and how.
    fn card(&self) -> String {
        let Inner { plan, .. } = &*self.0;
        let name = plan.method;
        let mut card = format!(
            "---\nlibrary_name: transformers\ntags:\n- merge\n---\n\n# A {name} merge\n\n## Sources\n\n"
        );
        let mut line = |text: String| writeln!(card, "{text}").unwrap_or(());
        for source in &plan.models {
            let base = plan.base.as_ref().is_some_and(|base| base.name() == source.name());
            line(format!(
                "- `{}`: `{}`{}",
                source.name(),
                last(source.spec()),
                if base { " (the base)" } else { "" }
            ));
        }
        line(format!("\n## Recipe\n\n{}", plan.recipe));
        card
    }

    /// Shows the report as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        self.report().evcxr_display();
    }
}

/// Computes the distance of a merged tensor from each source, `|M - W_i| / |W_i|`, and the cosine
/// between them.
fn distances(planned: &Planned) -> Result<TensorDistances> {
    /// Elements compared per task; the sums are added in order.
    const CHUNK: usize = 1 << 16;
    let operands = &planned.operands;
    let prepared = planned.prepare()?;
    let n = operands.sources();
    let elements = operands.elements();
    // For each source: the squares of M, of W and of M - W, and <M, W>.
    let sums = (0..elements.div_ceil(CHUNK)).into_par_iter().map(|i| {
        let mut sums = vec![[0f64; 4]; n];
        let mut merged = vec![0f32; CHUNK.min(elements - i * CHUNK)];
        if interrupt::requested() {
            return sums;
        }
        prepared.fill(i * CHUNK, &mut merged);
        operands.for_blocks(i * CHUNK, merged.len(), |block| {
            let merged = &merged[block.start() - i * CHUNK..][..block.length()];
            for (source, sums) in sums.iter_mut().enumerate() {
                for (m, w) in merged.iter().zip(block.source(source)) {
                    let (m, w) = (f64::from(*m), f64::from(*w));
                    [m * m, w * w, (m - w) * (m - w), m * w]
                        .into_iter()
                        .zip(&mut *sums)
                        .for_each(|(x, sum)| *sum += x);
                }
            }
        });
        sums
    });
    let mut total = vec![[0f64; 4]; n];
    let sums = sums.collect::<Vec<_>>();
    // After a stop, the sums are incomplete.
    interrupt::check()?;
    for sums in sums {
        total
            .iter_mut()
            .flatten()
            .zip(sums.iter().flatten())
            .for_each(|(total, sum)| *total += sum);
    }
    let one = |(name, [m, w, apart, along]): (&String, [f64; 4])| {
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        (
            name.clone(),
            Distance {
                relative: ratio(apart.sqrt(), w.sqrt()),
                cosine: ratio(along, (m * w).sqrt()),
            },
        )
    };
    let spec = operands.spec();
    let sources = operands.names().iter().zip(total).map(one).collect();
    Ok(TensorDistances { name: spec.name.clone(), kind: spec.kind.name(), sources })
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report().fmt(f)
    }
}

impl fmt::Debug for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Merged({} of {} sources)", self.0.plan.method, self.0.plan.sources.len())
    }
}
