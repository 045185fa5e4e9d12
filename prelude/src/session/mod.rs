//! The session layer: the six primitives over one session, and the optimiser step of DAM.
//!
//! ```text
//! W[:, j] = sum_i f(c[i, j]) W_i[:, j]                         the merge      coefficients/
//! loss    = sum_i KL(W_i || W on the data of i) + penalties(c) the objective  objective/
//! c      <- c - lr * update(d loss / d c)                      the step       Session::step, below
//! ```
//!
//! [`load`] opens the sources `W_i`; [`Models::wrap`] creates the coefficients `c` of a scheme (by
//! default one per source and column); [`Dam::loss`] computes the loss; [`Dam::step`] updates the
//! coefficients by its gradient; [`Dam::inspect`] reports the coefficients; [`Dam::bake`] writes
//! `W`. Start with `Session::objective` and `Session::step` below. The rest is in `session/`, one
//! file per primitive.

mod accessors;
mod adapter;
mod bake;
mod bake_options;
mod check;
mod compare;
mod diff;
mod distances;
mod evolve;
mod forecast;
mod format;
mod generate;
mod gguf;
mod inspect;
mod latest;
mod matching;
mod merge;
mod merged;
mod mix;
mod model_index;
mod models;
mod output;
mod plot;
mod progress;
mod rest;
mod saved;
mod score;
mod session_file;
mod side_files;
mod snapshot;
mod snapshot_content;
mod solve;
mod terms;
mod trace;
mod tune;
mod wrap_from;
mod write;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

pub use crate::checkpoint::BASE;
pub use accessors::SessionStatus;
pub use bake_options::Bake;
pub use check::check_scheme;
pub use compare::{Compare, DAM, EVOLVE, SOLVE};
pub use evolve::{Evolve, EvolveProgress, Evolved};
#[cfg(unix)]
pub(crate) use generate::KnownAnswers;
pub use latest::latest;
pub(crate) use latest::set_latest;
pub(crate) use matching::{matching, single};
pub use merged::Merged;
pub use mix::Amount;
pub use models::{Models, load};
pub use progress::{Counts, GENERATE, Progress, watch};
pub(crate) use session_file::step_of;
pub use snapshot::Snapshot;

use self::progress::Task;
pub use self::score::Evaluation;
use self::score::Scorer;
use self::terms::RecomputePlan;
pub use self::trace::Trace;
use crate::checkpoint::{Kind, Source, Written};
use crate::coefficients::{Merge, MergedTensor, Wrap};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::show::{Inspection, LossReport, Scores, StepReport, TrainReport};
use crate::train::{Gradients, History, Moments, Teachers, Update};

/// A merge that can be trained. It is a handle: clones share one session.
#[derive(Clone)]
pub struct Dam(Arc<Mutex<Session>>);

struct Session {
    models: Models,
    /// The merged models, in the order of their coefficients.
    sources: Vec<Source>,
    merge: Merge,
    dtype: DType,
    teachers: Teachers,
    /// One entry per variable of the merge.
    moments: Vec<Moments>,
    /// Weights of the weighted overlap, computed when the term is first switched on.
    angles: Vec<Tensor>,
    /// Whether to recompute layers, decided for batches up to a number of tokens.
    plan: Option<RecomputePlan>,
    step: usize,
    /// Examples drawn so far from each source's data.
    drawn: usize,
    /// Tokens run by steps, counted as in [`Cost`](crate::eval::Cost).
    tokens_run: u64,
    history: History,
    scores: Option<Scores>,
    /// Describes the start of the coefficients if they start at another merge.
    start: Option<String>,
    /// The identifier of the current state.
    state: u64,
}

/// The terms of the objective by name, each multiplied by its weight.
type Terms = Vec<(String, f64)>;

/// The gradient with respect to each trainable variable, in the order of the merge's variables.
type FlatGradients = Vec<Option<Vec<f32>>>;

impl Session {
    /// Computes the objective on the next batch and, with `with_gradient`, its gradient with
    /// respect to the coefficients.
    fn objective(&mut self, with_gradient: bool) -> Result<(Terms, FlatGradients)> {
        // 1. Distillation: compare the merge with each source on that source's data, and compute
        //    the gradient with respect to the variables of the scheme.
        let (mut terms, mut gradients) = self.distil(with_gradient)?;
        // A gradient from the penalties does not replace a missing gradient from the data.
        let distils = self.models.settings.weights.compares_logits();
        if with_gradient && distils {
            self.check_gradients(&gradients, distils)?;
        }

        // 2. Penalties on the coefficients themselves.
        terms.extend(self.penalties(with_gradient.then_some(&mut gradients))?);
        if terms.is_empty() {
            return Err(Error::NothingToTrain);
        }
        if !with_gradient {
            return Ok((terms, Vec::new()));
        }

        // 3. Every trainable variable must have a gradient.
        self.check_gradients(&gradients, distils)?;
        let mut flat = FlatGradients::new();
        for (i, variable) in self.merge.variables.iter().enumerate() {
            flat.push(match gradients.by_variable.get(&i) {
                Some(gradient) if variable.trains => Some(gradient.flatten_all()?.to_vec1()?),
                _ => None,
            });
        }
        Ok((terms, flat))
    }

    /// Returns an error for the first trainable variable without a gradient. With `distils`, also
    /// for a variable of a tensor that the gradient of the data did not reach.
    fn check_gradients(&self, gradients: &Gradients, distils: bool) -> Result<()> {
        let mut missed: Vec<&MergedTensor> = Vec::new();
        if distils {
            let trained = self.merge.tensors.iter().filter(|tensor| tensor.trains);
            missed.extend(trained.filter(|t| !gradients.tensors.contains(&t.spec.name)));
        }
        // The key of each variable without a gradient, and a tensor that uses it.
        let mut without: Vec<(&String, &String)> = Vec::new();
        for (i, variable) in self.merge.variables.iter().enumerate().filter(|(_, v)| v.trains) {
            if let Some(tensor) = missed.iter().find(|tensor| tensor.variables.contains(&i)) {
                without.push((&variable.key, &tensor.spec.name));
            } else if !gradients.by_variable.contains_key(&i) {
                without.push((&variable.key, &variable.tensor));
            }
        }
        match without.first().copied() {
            None => Ok(()),
            Some((parameter, tensor)) => Err(Error::NoGradient {
                parameter: parameter.clone(),
                tensor: tensor.clone(),
                count: without.len(),
            }),
        }
    }

    /// What scoring the merge needs.
    fn scorer(&self) -> Scorer<'_> {
        Scorer {
            models: &self.models,
            sources: &self.sources,
            architecture: &self.merge.architecture,
            device: &self.merge.device,
            dtype: self.dtype,
        }
    }

    /// Scores the merge as [`Dam::eval_with`] does.
    fn scores_on(&self, evaluation: &Evaluation) -> Result<Scores> {
        let scorer = self.scorer();
        scorer.score(&self.merge.as_weights(self.dtype), &scorer.eval_data(evaluation)?)
    }

    /// Makes one optimiser step. On an error, nothing changes.
    fn step(&mut self) -> Result<StepReport> {
        let (terms, mut gradients) = self.objective(true)?;
        let total = terms.iter().map(|(_, x)| x).sum();
        let step = self.step + 1;
        let squares =
            gradients.iter().flatten().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        let grad_norm = squares.sqrt();
        for (what, value) in [("loss", total), ("gradient", grad_norm)] {
            if !f64::is_finite(value) {
                return Err(Error::Diverged { what, step, value });
            }
        }
        let settings = &self.models.settings;
        if settings.clip > 0.0 && grad_norm > settings.clip {
            let scale = (settings.clip / grad_norm) as f32;
            gradients.iter_mut().flatten().flatten().for_each(|g| *g *= scale);
        }
        let lr = settings.lr_at(self.step, self.total_steps());
        let update =
            Update { optimizer: settings.optimizer, step, lr, weight_decay: settings.weight_decay };
        let mut moments = self.moments.clone();
        let mut moved = Vec::new();
        for ((variable, moments), gradient) in
            self.merge.variables.iter().zip(&mut moments).zip(&gradients)
        {
            let Some(gradient) = gradient else { continue };
            let mut values = variable.value.flatten_all()?.to_vec1::<f32>()?;
            // The vectors of a parameter are the entries of its first dimension: one per source for
            // most schemes.
            let width = values.len() / variable.value.dims().first().copied().unwrap_or(1);
            moments.update(update, &mut values, gradient, width);
            if let Some(value) = values.iter().find(|x| !x.is_finite()) {
                return Err(Error::Diverged {
                    what: "coefficient",
                    step,
                    value: f64::from(*value),
                });
            }
            moved.push((variable, Tensor::from_vec(values, variable.value.dims(), &Device::Cpu)?));
        }
        for (variable, values) in moved {
            variable.value.set(&values)?;
        }
        self.moments = moments;
        self.step = step;
        self.drawn += settings.batch_size;
        self.history.push(step, total, &terms);
        self.changed();
        Ok(StepReport { step, total, terms, grad_norm, lr })
    }

    /// Marks the state as changed and drops the scores of the old coefficients.
    fn changed(&mut self) {
        self.scores = None;
        self.state = snapshot::new_state();
    }

    /// The number of steps after which the linear schedule ends.
    fn total_steps(&self) -> usize {
        let settings = &self.models.settings;
        let data = self.sources.iter().filter_map(|s| self.models.data.get(s.name()));
        let longest = data.map(|d| d.examples.len()).max().unwrap_or(0);
        if settings.total_steps > 0 {
            settings.total_steps
        } else {
            longest.div_ceil(settings.batch_size)
        }
    }

    fn notes(&self, terms: &Terms) -> Vec<String> {
        let mut notes = Vec::new();
        let penalised = self.merge.tensors.iter().filter(|t| t.is_penalised()).count() as f64;
        let parallel = self.models.settings.weights.cosine * penalised;
        if self.step == 0
            && terms.iter().any(|(name, x)| {
                name == "cosine" && *x > 0.0 && (x - parallel).abs() < 1e-6 * parallel
            })
        {
            notes.push("cosine has no gradient yet: all coefficient vectors are parallel, as at every uniform start".into());
        }
        if self.models.settings.lr_at(self.step, self.total_steps()) == 0.0 {
            notes.push(format!(
                "the linear schedule ended at step {}: the learning rate is 0",
                self.total_steps()
            ));
        }
        notes
    }
}

impl Dam {
    /// Creates the merge of `models` with its initial coefficients.
    pub(crate) fn new(models: Models, wrap: Wrap) -> Result<Self> {
        models.settings.check()?;
        let Wrap { scheme, options } = &wrap;
        if options.train.iter().all(|kind| *kind == Kind::Bias) {
            return Err(Error::bad_value("train", "", "one or more of linear, embedding and norm"));
        }
        let sources = models.merged_by(&**scheme, options.with_base)?;
        let (device, dtype) = models.settings.device_and_dtype(&sources)?;
        sources.iter().try_for_each(|s| sources[0].check_trainable(s))?;
        let merge = Merge::new(&sources, wrap, device)?;
        let moments = merge.variables.iter().map(|_| Moments::default()).collect();
        let session = Session {
            models,
            sources,
            merge,
            dtype,
            teachers: Teachers::default(),
            moments,
            angles: Vec::new(),
            plan: None,
            step: 0,
            drawn: 0,
            tokens_run: 0,
            history: History::default(),
            scores: None,
            start: None,
            state: snapshot::new_state(),
        };
        session.rest()?;
        Ok(Self(Arc::new(Mutex::new(session))))
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f`, which reads the sources' weights, on the configured number of threads.
    fn with_weights<T: Send>(&self, f: impl FnOnce(&mut Session) -> Result<T> + Send) -> Result<T> {
        self.session().models.check_unchanged()?;
        self.with_session(f)
    }

    /// Runs `f`, which does not read weights, on the configured number of threads.
    fn with_session<T: Send>(&self, f: impl FnOnce(&mut Session) -> Result<T> + Send) -> Result<T> {
        let mut session = self.session();
        let session: &mut Session = &mut session;
        on_threads(session.models.settings.threads, || f(session))
    }

    /// Computes every term of the objective on the batch of the next step.
    ///
    /// # Errors
    /// A source has no data.
    pub fn loss(&self) -> Result<LossReport> {
        self.with_weights(|session| {
            let (terms, _) = session.objective(false)?;
            Ok(LossReport {
                total: terms.iter().map(|(_, x)| x).sum(),
                notes: session.notes(&terms),
                terms,
            })
        })
    }

    /// Makes one optimiser step on the next batch. Reports the loss before the step.
    ///
    /// # Errors
    /// A source has no data, a coefficient has no gradient, the loss is not finite, or
    /// [`Error::Interrupted`]. The coefficients are then unchanged.
    pub fn step(&self) -> Result<StepReport> {
        self.with_weights(Session::step)
    }

    /// Makes `steps` optimiser steps. A stop discards the step in progress and keeps those before
    /// it.
    ///
    /// # Errors
    /// As for [`Dam::step`]; steps made before the error are kept. [`Error::Interrupted`] if no
    /// step was made.
    pub fn train(&self, steps: usize) -> Result<TrainReport> {
        self.train_with(steps, |_| ControlFlow::Continue(()))
    }

    /// Like [`Dam::train`], but calls `after` after every step; `Break` stops training and keeps
    /// all steps.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let enough = |loss| if loss < 0.1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    /// let report = dam.train_with(3, |step| enough(step.total))?;
    /// assert_eq!((report.steps, report.stopped), (3, false));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Dam::step`].
    pub fn train_with(
        &self,
        steps: usize,
        mut after: impl FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<TrainReport> {
        let start = Instant::now();
        let mut history = History::default();
        let mut stopped = false;
        let mut lr = 0.0;
        let mut task = Task::begin("train", Some(steps), Some(self));
        for i in 0..steps {
            let report = match self.step() {
                // An interrupted step is discarded; the steps before it are kept.
                Err(Error::Interrupted) if i > 0 => {
                    stopped = true;
                    break;
                }
                report => report?,
            };
            history.push(report.step, report.total, &report.terms);
            lr = report.lr;
            task.step(
                || format!("step {}: loss {:.4}", report.step, report.total),
                Some(report.total),
                Some(&report),
            );
            if after(&report).is_break() || interrupt::requested() {
                stopped = i + 1 < steps;
                break;
            }
        }
        let losses: Vec<f64> = history.total.iter().map(|(_, loss)| *loss).collect();
        drop(task);
        Ok(TrainReport {
            steps: losses.len(),
            reached: self.steps(),
            first: losses.first().copied().unwrap_or(0.0),
            last: losses.last().copied().unwrap_or(0.0),
            lr,
            seconds: start.elapsed().as_secs_f64(),
            stopped,
            losses,
            terms: history.terms,
        })
    }

    /// Reports the coefficients of the tensors selected by `pattern`: a name, a glob (`*`, `?`) or
    /// a part of a name. `""` selects all tensors.
    ///
    /// # Errors
    /// The pattern matches no tensor.
    pub fn inspect(&self, pattern: &str) -> Result<Inspection> {
        self.session().inspect(pattern)
    }

    /// Writes the merge as a Hugging Face checkpoint to a new directory.
    ///
    /// # Errors
    /// The directory exists, its disk is full, or it is not writable. No partial output remains.
    pub fn bake(&self, directory: impl AsRef<Path>) -> Result<Written> {
        self.bake_with(directory, &Bake::default())
    }

    /// [`Dam::bake`] with options.
    ///
    /// # Errors
    /// As for `bake`.
    pub fn bake_with(&self, directory: impl AsRef<Path>, options: &Bake) -> Result<Written> {
        let directory = directory.as_ref();
        self.with_weights(|session| session.bake(directory, options))
    }
}

/// Runs `f` on `threads` threads; 0 uses all cores.
fn on_threads<T: Send>(threads: usize, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if threads == 0 {
        return f();
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::bad_value("threads", &threads.to_string(), e.to_string()))?;
    pool.install(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{keep_in_memory, make_room};
    use crate::coefficients::Columns;

    /// Guards against an operation without a backward pass and against a weight that no operation
    /// uses.
    #[test]
    fn a_missing_gradient_is_an_error_and_changes_nothing() {
        let models = load(["builtin:japanese", "builtin:math"]).unwrap();
        let dam = models.wrap(Columns::default()).unwrap();
        let name = "model.norm.weight";
        let before: Vec<Vec<f32>> = dam.coefficients(name).unwrap().to_vec2().unwrap();
        {
            let mut session = dam.session();
            let mut more = Merge::new(&session.sources, Columns::default(), Device::Cpu).unwrap();
            let mut unused = more.tensors.pop().unwrap();
            let mut variable = more.variables.pop().unwrap();
            unused.spec.name = "model.unused.weight".into();
            variable.key = "unused".into();
            unused.variables = vec![session.merge.variables.len()];
            session.merge.tensors.push(unused);
            session.merge.variables.push(variable);
            session.moments.push(Moments::default());
        }
        let error = dam.step().unwrap_err();
        assert!(
            matches!(&error, Error::NoGradient { parameter, count: 1, .. } if parameter == "unused"),
            "{error:?}"
        );
        assert_eq!(dam.coefficients(name).unwrap().to_vec2::<f32>().unwrap(), before);
        assert_eq!(dam.steps(), 0);
    }

    /// On the path of other devices, sources without copies there are merged to the same numbers.
    #[test]
    fn sources_that_do_not_fit_on_the_device_give_the_same_steps() {
        if !crate::device::is_composed(&Device::Cpu) {
            return;
        }
        let run = |fits: bool| {
            let dam = crate::load(["builtin:japanese", "builtin:math"])
                .unwrap()
                .wrap(Columns::default())
                .unwrap();
            {
                let mut session = dam.session();
                session.plan = Some(RecomputePlan::for_any_length());
                if !fits {
                    make_room(&session.sources, &Device::Cpu, u64::MAX).unwrap();
                }
            }
            let report = dam.train(3).unwrap();
            let resident = dam.session().sources.iter().any(|s| s.resident_bytes(&Device::Cpu) > 0);
            assert_eq!(resident, fits);
            (report.losses, dam.eval(&[]).unwrap().mean_loss())
        };
        assert_eq!(run(true), run(false));
    }

    /// Layers that are released after use and read again are merged to the same numbers.
    #[test]
    fn sources_that_do_not_fit_into_memory_give_the_same_steps() {
        let run = |free: u64| {
            let names = ["japanese", "math"];
            let place = |n| format!("{n}={}/builtin/{n}", env!("CARGO_MANIFEST_DIR"));
            let mut models = load(names.map(place)).unwrap();
            for name in names {
                models.data(name, &format!("builtin:{name}")).unwrap();
            }
            let dam = models.wrap(Columns::default()).unwrap();
            {
                let mut session = dam.session();
                session.plan = Some(RecomputePlan::for_any_length());
                let passing = keep_in_memory(&session.sources, free);
                assert_eq!(passing == 0, free > 0);
            }
            let report = dam.train(3).unwrap();
            (report.losses, dam.eval(&[]).unwrap().mean_loss())
        };
        assert_eq!(run(0), run(u64::MAX));
    }

    /// On the path of other devices, everything is done in bf16 too, close to f32.
    #[test]
    fn half_precision_is_close_to_single() {
        if !crate::device::is_composed(&candle_core::Device::Cpu) {
            return;
        }
        let run = |dtype: &str| {
            let mut models = crate::load(["builtin:japanese", "builtin:math"]).unwrap();
            (models.settings.lr, models.settings.batch_size) = (1e-2, 2);
            models.settings.dtype = dtype.into();
            let dam = models.wrap(crate::Columns::default()).unwrap();
            let start = dam.loss().unwrap().total;
            let first = dam.step().unwrap();
            dam.train(10).unwrap();
            let end = dam.loss().unwrap().total;
            let held_out = dam.eval(&[]).unwrap().mean_loss();
            assert!(!dam.generate("7 + 5 = ?", 3).unwrap().text.is_empty());
            dam.solve(&crate::SolveSettings { examples: 2, ..Default::default() }).unwrap();
            [start, first.grad_norm, end, held_out, dam.loss().unwrap().total]
        };
        let (single, half) = (run("f32"), run("bf16"));
        for (single, half) in single.into_iter().zip(half) {
            assert!((single - half).abs() < 0.05 * single.abs().max(0.2), "{single} and {half}");
        }
    }
}
