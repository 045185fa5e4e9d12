//! Floor 7: the six primitives over one session, and the step that makes DAM.
//!
//! ```text
//! W[:, j] = sum_i f(c[i, j]) W_i[:, j]                         the merge      coefficients/
//! loss    = sum_i KL(W_i || W on the data of i) + penalties(c) the objective  objective/
//! c      <- c - lr * update(d loss / d c)                      the step       Session::step, below
//! ```
//!
//! [`load`] opens the sources `W_i`; [`Models::wrap`] gives every column its coefficients `c`, or what else a scheme says;
//! [`Dam::loss`] computes the loss; [`Dam::step`] moves the coefficients down its gradient;
//! [`Dam::inspect`] shows what they became; [`Dam::bake`] writes `W`. Read `Session::objective` and
//! `Session::step` below: the rest is in `session/`, a file a primitive.

mod adapter;
mod apart;
mod bake;
mod beside;
mod check;
mod compare;
mod diff;
mod evolve;
mod gguf;
mod handle;
mod inspect;
mod latest;
mod merge;
mod merged;
mod models;
mod output;
mod plot;
mod progress;
mod rest;
mod saved;
mod score;
mod snapshot;
mod start;
mod talk;
mod teach;
mod tune;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

pub use crate::checkpoint::BASE;
pub use bake::Bake;
pub use check::check_scheme;
pub use compare::{Compare, DAM, EVOLVE};
pub use evolve::{Evolve, Evolved, Tried};
pub use handle::Glance;
pub(crate) use inspect::{matching, single};
pub use latest::latest;
pub(crate) use latest::set_latest;
pub use merged::Merged;
pub use models::{Models, load};
pub use progress::{Counts, GENERATE, Progress, watch};
pub(crate) use saved::step_of;
pub use snapshot::Snapshot;

use self::progress::Task;
use self::score::Judge;
use self::teach::Plan;
use crate::checkpoint::{Kind, Source, Written};
use crate::coefficients::{Merge, MergedTensor, Variable, Wrap};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::show::{Inspection, LossReport, Scores, StepReport, TrainReport};
use crate::train::{Forecast, History, Moments, Taught, Teachers, Update, keep_memory};

/// A merge in the making. A handle: clones share one session.
#[derive(Clone)]
pub struct Dam(Arc<Mutex<Session>>);

struct Session {
    models: Models,
    /// The models that are merged, in the order of their coefficients.
    sources: Vec<Source>,
    merge: Merge,
    dtype: DType,
    teachers: Teachers,
    /// Of every variable of the merge.
    moments: Vec<Moments>,
    /// Weights of the weighted overlap, computed when it is first on.
    angles: Vec<Tensor>,
    /// What it was said to take when it was wrapped.
    forecast: Forecast,
    /// What was decided for steps of so many tokens.
    plan: Option<Plan>,
    step: usize,
    /// Examples drawn from each source's data.
    drawn: usize,
    /// Tokens that steps ran, as [`Cost`](crate::eval::Cost) counts them.
    ran: u64,
    history: History,
    scores: Option<Scores>,
    /// What is to be said of where the coefficients started, if that was at a merge.
    start: Option<String>,
    /// The number of the state that it is in.
    state: u64,
}

/// The terms of the objective by name, each with its weight.
type Terms = Vec<(String, f64)>;

/// The gradient by every variable that trains, in the order of the merge's variables.
type Gradients = Vec<Option<Vec<f32>>>;

impl Session {
    /// The objective on the next batch, and with `learn` its gradient by the coefficients.
    fn objective(&mut self, learn: bool) -> Result<(Terms, Gradients)> {
        // 1. Each source teaches on its own data: how far the merge is from it, and the gradient of that by
        //    what the coefficients are made of.
        let (mut terms, mut taught) = self.distil(learn)?;
        // A penalty's gradient does not make up for one that should have come from the data.
        let teaches = self.models.settings.weights.compares_logits();
        if learn && teaches {
            self.reached(&taught, teaches)?;
        }

        // 2. Penalties on the coefficients themselves.
        terms.extend(self.penalties(learn.then_some(&mut taught))?);
        if terms.is_empty() {
            return Err(Error::NothingToTrain);
        }
        if !learn {
            return Ok((terms, Vec::new()));
        }

        // 3. Everything that trains must have been reached.
        self.reached(&taught, teaches)?;
        let gradient = |(i, variable): (usize, &Variable)| -> Result<Option<Vec<f32>>> {
            let found = taught.gradients.get(&i).filter(|_| variable.trains);
            Ok(found.map(|g| g.flatten_all()?.to_vec1()).transpose()?)
        };
        let gradients = self.merge.variables.iter().enumerate().map(gradient).collect::<Result<_>>()?;
        Ok((terms, gradients))
    }

    /// An error for the first variable that trains without a gradient; with `teaches`, also for one of a
    /// tensor that the data did not reach.
    fn reached(&self, taught: &Taught, teaches: bool) -> Result<()> {
        let missed = |tensor: &&MergedTensor| tensor.trains && teaches && !taught.tensors.contains(&tensor.spec.name);
        let missed: Vec<&MergedTensor> = self.merge.tensors.iter().filter(missed).collect();
        let mut without = self.merge.variables.iter().enumerate().filter(|(_, v)| v.trains).filter_map(|(i, variable)| {
            let tensor = missed.iter().find(|t| t.variables.contains(&i)).map(|t| &t.spec.name);
            tensor.or((!taught.gradients.contains_key(&i)).then_some(&variable.tensor)).map(|tensor| (variable, tensor))
        });
        match without.next() {
            None => Ok(()),
            Some((variable, tensor)) => {
                let (parameter, tensor) = (variable.key.clone(), tensor.clone());
                Err(Error::NoGradient { parameter, tensor, count: 1 + without.count() })
            }
        }
    }

    /// What scores its merge.
    fn judge(&self) -> Judge<'_> {
        Judge {
            models: &self.models,
            sources: &self.sources,
            architecture: &self.merge.architecture,
            device: &self.merge.device,
            dtype: self.dtype,
        }
    }

    /// One optimiser step; on any error nothing has moved.
    fn step(&mut self) -> Result<StepReport> {
        let (terms, mut gradients) = self.objective(true)?;
        let total = terms.iter().map(|(_, x)| x).sum();
        let step = self.step + 1;
        let squares = gradients.iter().flatten().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>();
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
        let update = Update { optimizer: settings.optimizer, step, lr, weight_decay: settings.weight_decay };
        let mut moments = self.moments.clone();
        let mut moved = Vec::new();
        for ((variable, moments), gradient) in self.merge.variables.iter().zip(&mut moments).zip(&gradients) {
            let Some(gradient) = gradient else { continue };
            let mut values = variable.value.flatten_all()?.to_vec1::<f32>()?;
            // The vectors of a parameter are the entries of its first dimension, mostly sources.
            let width = values.len() / variable.value.dims().first().copied().unwrap_or(1);
            moments.update(update, &mut values, gradient, width);
            if let Some(value) = values.iter().find(|x| !x.is_finite()) {
                return Err(Error::Diverged { what: "coefficient", step, value: f64::from(*value) });
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

    /// The coefficients are others: what was said of those before holds no more.
    fn changed(&mut self) {
        self.scores = None;
        self.state = snapshot::new_state();
    }

    /// Where the linear schedule ends.
    fn total_steps(&self) -> usize {
        let settings = &self.models.settings;
        let data = self.sources.iter().filter_map(|s| self.models.data.get(s.name()));
        let longest = data.map(|d| d.examples.len()).max().unwrap_or(0);
        if settings.total_steps > 0 { settings.total_steps } else { longest.div_ceil(settings.batch_size) }
    }

    fn notes(&self, terms: &Terms) -> Vec<String> {
        let mut notes = Vec::new();
        let penalised = self.merge.tensors.iter().filter(|t| t.is_penalised()).count() as f64;
        let parallel = self.models.settings.weights.cosine * penalised;
        if self.step == 0 && terms.iter().any(|(name, x)| name == "cosine" && *x > 0.0 && (x - parallel).abs() < 1e-6 * parallel)
        {
            notes.push("cosine has no gradient yet: all coefficient vectors are parallel, as at every uniform start".into());
        }
        if self.models.settings.lr_at(self.step, self.total_steps()) == 0.0 {
            notes.push(format!("the linear schedule ended at step {}: the learning rate is 0", self.total_steps()));
        }
        notes
    }
}

impl Dam {
    /// The merge of `models`, at its start.
    pub(crate) fn new(models: Models, wrap: Wrap) -> Result<Self> {
        models.settings.check()?;
        keep_memory();
        let Wrap { scheme, options } = &wrap;
        if options.train.iter().all(|kind| *kind == Kind::Bias) {
            return Err(Error::bad_value("train", "", "one or more of linear, embedding and norm"));
        }
        let (device, dtype) = models.settings.place()?;
        let sources = models.merged_by(&**scheme, options.with_base)?;
        sources.iter().try_for_each(|s| sources[0].check_trainable(s))?;
        let mut forecast = Forecast::new(&models.load_of(&sources)?, &models.settings, &device)?;
        let merge = Merge::new(&sources, wrap, device)?;
        forecast.working_bytes += merge.coefficient_bytes();
        let moments = merge.variables.iter().map(|_| Moments::default()).collect();
        let session = Session {
            models,
            sources,
            merge,
            dtype,
            teachers: Teachers::default(),
            moments,
            angles: Vec::new(),
            forecast,
            plan: None,
            step: 0,
            drawn: 0,
            ran: 0,
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

    /// Runs `f`, which reads the sources' weights, on the number of threads that is set.
    fn run<T: Send>(&self, f: impl FnOnce(&mut Session) -> Result<T> + Send) -> Result<T> {
        self.session().models.check_unchanged()?;
        self.look(f)
    }

    /// Runs `f`, which needs no weights, on the number of threads that is set.
    fn look<T: Send>(&self, f: impl FnOnce(&mut Session) -> Result<T> + Send) -> Result<T> {
        let mut session = self.session();
        let session: &mut Session = &mut session;
        on_threads(session.models.settings.threads, || f(session))
    }

    /// The objective on the batch that the next step will use, term by term.
    ///
    /// # Errors
    /// A source without data.
    pub fn loss(&self) -> Result<LossReport> {
        self.run(|session| {
            let (terms, _) = session.objective(false)?;
            Ok(LossReport { total: terms.iter().map(|(_, x)| x).sum(), notes: session.notes(&terms), terms })
        })
    }

    /// One optimiser step on the next batch. Reports the loss before it.
    ///
    /// # Errors
    /// A source without data, a coefficient that no gradient reached, a loss that is not finite, or
    /// [`Error::Interrupted`]. The coefficients have not moved then.
    pub fn step(&self) -> Result<StepReport> {
        self.run(Session::step)
    }

    /// `steps` optimiser steps. A stop that is asked for breaks off the one under way, and keeps those before it.
    ///
    /// # Errors
    /// As for [`Dam::step`]; the steps made before stay made. [`Error::Interrupted`] where none was made.
    pub fn train(&self, steps: usize) -> Result<TrainReport> {
        self.train_with(steps, |_| ControlFlow::Continue(()))
    }

    /// [`Dam::train`], with a look after every step: `Break` stops there and keeps everything.
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
    pub fn train_with(&self, steps: usize, mut after: impl FnMut(&StepReport) -> ControlFlow<()>) -> Result<TrainReport> {
        let (start, mut history, mut stopped, mut lr) = (Instant::now(), History::default(), false, 0.0);
        let mut task = Task::begin("train", Some(steps), Some(self));
        for i in 0..steps {
            let report = match self.step() {
                // A step that was broken off is none; those before it stay made.
                Err(Error::Interrupted) if i > 0 => {
                    stopped = true;
                    break;
                }
                report => report?,
            };
            history.push(report.step, report.total, &report.terms);
            lr = report.lr;
            task.step(|| format!("step {}: loss {:.4}", report.step, report.total), Some(report.total), Some(&report));
            if after(&report).is_break() || interrupt::requested() {
                stopped = i + 1 < steps;
                break;
            }
        }
        let losses: Vec<f64> = history.total.iter().map(|(_, loss)| *loss).collect();
        let (first, last) = (losses.first().copied().unwrap_or(0.0), losses.last().copied().unwrap_or(0.0));
        drop(task);
        let seconds = start.elapsed().as_secs_f64();
        Ok(TrainReport {
            steps: losses.len(),
            reached: self.steps(),
            first,
            last,
            lr,
            seconds,
            stopped,
            losses,
            terms: history.terms,
        })
    }

    /// The coefficients of the tensors named or matched by `pattern`: a name, a glob (`*`, `?`), or a
    /// part of a name. `""` is all.
    ///
    /// # Errors
    /// A pattern that matches nothing.
    pub fn inspect(&self, pattern: &str) -> Result<Inspection> {
        self.session().inspect(pattern)
    }

    /// Writes the merge as a Hugging Face checkpoint to a new directory.
    ///
    /// # Errors
    /// A directory that exists, has no room or may not be written; nothing is left behind.
    pub fn bake(&self, directory: impl AsRef<Path>) -> Result<Written> {
        self.bake_with(directory, &Bake::default())
    }

    /// [`Dam::bake`] with options.
    ///
    /// # Errors
    /// As for `bake`.
    pub fn bake_with(&self, directory: impl AsRef<Path>, options: &Bake) -> Result<Written> {
        let directory = directory.as_ref();
        self.run(|session| session.bake(directory, options))
    }
}

/// Runs `f` on `threads` threads; 0: all.
fn on_threads<T: Send>(threads: usize, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if threads == 0 {
        return f();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let unfit = |e: rayon::ThreadPoolBuildError| Error::bad_value("threads", &threads.to_string(), e.to_string());
    pool.map_err(unfit)?.install(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coefficients::Columns;

    /// The guard against an operation without a backward, or a weight that no operation uses.
    #[test]
    fn a_coefficient_without_a_gradient_is_an_error_and_nothing_moves() {
        let models = load(["builtin:japanese", "builtin:math"]).unwrap();
        let dam = models.wrap(Columns::default()).unwrap();
        let name = "model.norm.weight";
        let before: Vec<Vec<f32>> = dam.coefficients(name).unwrap().to_vec2().unwrap();
        {
            let mut session = dam.session();
            let mut more = Merge::new(&session.sources, Columns::default(), Device::Cpu).unwrap();
            let (mut unused, mut variable) = (more.tensors.pop().unwrap(), more.variables.pop().unwrap());
            unused.spec.name = "model.unused.weight".into();
            variable.key = "unused".into();
            unused.variables = vec![session.merge.variables.len()];
            session.merge.tensors.push(unused);
            session.merge.variables.push(variable);
            session.moments.push(Moments::default());
        }
        let error = dam.step().unwrap_err();
        assert!(matches!(&error, Error::NoGradient { parameter, count: 1, .. } if parameter == "unused"), "{error:?}");
        assert_eq!(dam.coefficients(name).unwrap().to_vec2::<f32>().unwrap(), before);
        assert_eq!(dam.steps(), 0);
    }
}
