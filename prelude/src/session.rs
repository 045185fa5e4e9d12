//! Floor 7: the whole of DAM in one place, six primitives over one session.
//!
//! [`load`] opens sources; [`Models::wrap`] gives every weight column of every source a coefficient;
//! [`Dam::loss`] asks how far the merge is from each source on that source's data; [`Dam::step`] moves
//! the coefficients down its gradient; [`Dam::inspect`] shows what they became; [`Dam::bake`] writes
//! the merge. The step itself is `Session::objective` and `Session::step` below.

mod bake;
mod models;
mod saved;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use globset::Glob;

pub use bake::Bake;
pub use models::{BASE, Models, load};

use crate::checkpoint::{BUILTIN_PREFIX, Kind, Source, Written, views};
use crate::coefficients::{BiasStart, Columns, Merge, MergedTensor};
use crate::data::{Dataset, builtin_datasets, next_examples, prompt_ids};
use crate::error::{Error, Result};
use crate::eval::{generate, score};
use crate::model::{Decoder, SourceWeights, Weights};
use crate::objective::{self, Distillation};
use crate::show::{
    Answer, Inspection, LossReport, Scoreboard, Scores, SourceStats, StepReport, TensorStats, TrainReport, WrapReport,
};
use crate::train::{Lesson, Moments, Settings, Teachers};

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
    /// Of every tensor of the merge.
    moments: Vec<Moments>,
    /// Weights of the weighted overlap, computed when it is first on.
    angles: Vec<Tensor>,
    step: usize,
    /// Examples drawn from each source's data.
    drawn: usize,
    losses: Vec<f64>,
    scores: Option<Scores>,
}

/// The terms of the objective by name, each with its weight.
type Terms = Vec<(String, f64)>;

/// The gradient of every trainable tensor's coefficients, in the order of the merge's tensors.
type Gradients = Vec<Option<Vec<f32>>>;

impl Session {
    /// The objective on the next batch, and with `learn` its gradient by the coefficients.
    fn objective(&mut self, learn: bool) -> Result<(Terms, Gradients)> {
        let settings = self.models.settings.clone();
        let on = &settings.weights;
        let mut terms = Terms::new();

        // 1. The merge: every weight is the sum of f(c_i) W_i over sources.
        let mut weights = self.merge.weights(self.dtype)?;
        if !learn {
            weights.values_mut().for_each(|w| *w = w.detach());
        }

        // 2. Each source teaches on its own data. One source at a time is in memory; the gradient by
        //    the merged weights adds up over sources.
        let mut by_weight: BTreeMap<String, Tensor> = BTreeMap::new();
        let teaches = on.kl > 0.0 || on.mse > 0.0 || on.entropy > 0.0;
        for source in self.sources.iter().filter(|_| teaches) {
            let name = source.name();
            let Some(data) = self.models.data.get(name) else {
                if name == BASE {
                    continue;
                }
                return Err(Error::NoData { source_name: name.into() });
            };
            let Settings { max_length, top_k, .. } = settings;
            let lesson = Lesson { source, data, max_length, top_k, device: &self.merge.device, dtype: self.dtype };
            let shuffle = settings.shuffle.then_some(settings.seed);
            let examples = next_examples(name, data.examples.len(), self.drawn, settings.batch_size, shuffle);
            let teacher = self.teachers.logits(&lesson, &examples)?;
            let batch = lesson.batch(&examples)?;
            let decoder = Decoder::new(source.architecture(), &weights);
            let student = decoder.logits(&batch.unmasked(&decoder.hidden(&batch.ids)?)?)?;
            let compared =
                Distillation { student: &student, teacher: &teacher, temperature: settings.temperature, size: batch.size };
            let mut losses = Vec::new();
            if on.kl > 0.0 {
                losses.push(("kl", (compared.kl(settings.reduction)? * on.kl)?));
            }
            if on.mse > 0.0 {
                losses.push(("mse", (compared.mse()? * on.mse)?));
            }
            if on.entropy > 0.0 {
                losses.push(("entropy", (compared.entropy()? * on.entropy)?));
            }
            let loss = sum(losses.iter().map(|(_, loss)| loss))?;
            for (term, value) in losses {
                terms.push((format!("{term}.{name}"), scalar(&value)?));
            }
            if learn {
                let mut gradients = loss.backward()?;
                for (name, weight) in &weights {
                    let Some(new) = gradients.remove(weight) else { continue };
                    let total = match by_weight.remove(name) {
                        Some(old) => (old + new)?,
                        None => new,
                    };
                    by_weight.insert(name.clone(), total);
                }
            }
        }
        drop(weights);

        // 3. Penalties on the coefficients of the weights that train.
        if on.weighted_overlap > 0.0 && self.angles.is_empty() {
            self.angles = self.column_angles()?;
        }
        let penalised: Vec<(usize, &Tensor)> = self
            .merge
            .tensors
            .iter()
            .enumerate()
            .filter(|(_, t)| t.is_penalised())
            .map(|(i, t)| (i, t.coefficients.as_tensor()))
            .collect();
        let penalty = |weight: f64, term: &dyn Fn(usize, &Tensor) -> candle_core::Result<Tensor>| -> Result<Option<Tensor>> {
            if weight == 0.0 || penalised.is_empty() {
                return Ok(None);
            }
            let each = penalised.iter().map(|(i, c)| term(*i, c)).collect::<candle_core::Result<Vec<_>>>()?;
            Ok(Some((sum(each.iter())? * weight)?))
        };
        let penalties = [
            ("cosine", penalty(on.cosine, &|_, c| objective::cosine(c))?),
            ("l1", penalty(on.l1, &|_, c| objective::l1(c))?),
            ("l2", penalty(on.l2, &|_, c| objective::l2(c))?),
            ("overlap", penalty(on.overlap, &|_, c| objective::overlap(c, None))?),
            ("weighted_overlap", penalty(on.weighted_overlap, &|i, c| objective::overlap(c, self.angles.get(i)))?),
        ];
        let mut by_coefficient: Vec<Tensor> = Vec::new();
        for (name, value) in penalties {
            if let Some(value) = value {
                terms.push((name.into(), scalar(&value)?));
                by_coefficient.push(value);
            }
        }
        if terms.is_empty() {
            return Err(Error::NothingToTrain);
        }
        if !learn {
            return Ok((terms, Vec::new()));
        }

        // 4. The chain rule from merged weights back to coefficients, and the penalties' own gradients.
        let trained: Vec<&MergedTensor> = self.merge.tensors.iter().filter(|t| t.trains).collect();
        if teaches {
            let without: Vec<_> = trained.iter().filter(|t| !by_weight.contains_key(&t.spec.name)).collect();
            if let Some(first) = without.first() {
                return Err(Error::NoGradient { tensor: first.spec.name.clone(), count: without.len() });
            }
            for tensor in &trained {
                by_coefficient.push(self.merge.pull_back(tensor, &by_weight[&tensor.spec.name])?);
            }
        }
        let gradients = sum(by_coefficient.iter())?.backward()?;
        let gradient = |tensor: &MergedTensor| -> Result<Option<Vec<f32>>> {
            let found = gradients.get(tensor.coefficients.as_tensor()).filter(|_| tensor.trains);
            Ok(found.map(|g| g.flatten_all()?.to_vec1()).transpose()?)
        };
        let gradients = self.merge.tensors.iter().map(gradient).collect::<Result<_>>()?;
        Ok((terms, gradients))
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
        for ((tensor, moments), gradient) in self.merge.tensors.iter().zip(&mut self.moments).zip(&gradients) {
            let Some(gradient) = gradient else { continue };
            let (c, shape) = (&tensor.coefficients, tensor.coefficients.dims());
            let mut values = c.flatten_all()?.to_vec1::<f32>()?;
            moments.step(settings.optimizer, &mut values, gradient, shape[1], step, lr, settings.weight_decay);
            c.set(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
        }
        self.step = step;
        self.drawn += settings.batch_size;
        self.losses.push(total);
        self.scores = None;
        Ok(StepReport { step, total, terms, grad_norm, lr })
    }

    /// Where the linear schedule ends.
    fn total_steps(&self) -> usize {
        let settings = &self.models.settings;
        let longest = self.models.data.values().map(|d| d.examples.len()).max().unwrap_or(0);
        if settings.total_steps > 0 { settings.total_steps } else { longest.div_ceil(settings.batch_size) }
    }

    fn column_angles(&self) -> Result<Vec<Tensor>> {
        let base = self.models.base().ok_or_else(|| Error::Sources {
            what: "weighted_overlap compares task vectors, which need a base model".into(),
            hint: "load base=SOURCE too, or set weighted_overlap=0",
        })?;
        let angles =
            |t: &MergedTensor| objective::column_angles(&t.spec, base.view(&t.spec.name)?, &views(&self.sources, &t.spec)?);
        self.merge.tensors.iter().map(angles).collect()
    }

    fn notes(&self, terms: &Terms) -> Vec<String> {
        let mut notes = Vec::new();
        let penalised = self.merge.tensors.iter().filter(|t| t.is_penalised()).count() as f64;
        let parallel = self.models.settings.weights.cosine * penalised;
        if terms.iter().any(|(name, x)| name == "cosine" && *x > 0.0 && (x - parallel).abs() < 1e-6 * parallel) {
            notes.push("cosine has no gradient yet: all coefficient vectors are parallel, as at every uniform start".into());
        }
        if self.models.settings.lr_at(self.step, self.total_steps()) == 0.0 {
            notes.push(format!("the linear schedule ended at step {}: the learning rate is 0", self.total_steps()));
        }
        notes
    }

    /// Scores `weights` on every data set of `data`.
    fn score<W: Weights + ?Sized>(&self, weights: &W, data: &[(String, Dataset)]) -> Result<Scores> {
        let (architecture, limit) = (self.sources[0].architecture(), self.models.settings.max_length);
        let one = |(name, d): &(String, Dataset)| {
            Ok((name.clone(), score(architecture, weights, &d.examples, limit, &self.merge.device)?))
        };
        Ok(Scores(data.iter().map(one).collect::<Result<_>>()?))
    }

    /// The data to score on: the files named, or the held-out sets of built-in sources, or else the
    /// data that the session merges on.
    fn scored(&self, files: &[String]) -> Result<Vec<(String, Dataset)>> {
        let reader = self.sources.iter().find(|s| s.tokenizer().is_some()).unwrap_or(&self.sources[0]);
        if !files.is_empty() {
            return files.iter().map(|f| Ok((f.clone(), Dataset::read(f, reader)?))).collect();
        }
        let skills: Vec<&str> = self.sources.iter().filter_map(Source::builtin).collect();
        // `a-b-heldout` needs the skills a and b.
        let needs = |name: &&str| name.strip_suffix("-heldout").is_some_and(|n| n.split('-').all(|s| skills.contains(&s)));
        let held_out = builtin_datasets().into_iter().filter(needs);
        let read =
            |n: &str| Ok((n.trim_end_matches("-heldout").to_owned(), Dataset::read(&format!("{BUILTIN_PREFIX}{n}"), reader)?));
        let held_out = held_out.map(read).collect::<Result<Vec<_>>>()?;
        if !held_out.is_empty() {
            return Ok(held_out);
        }
        let own: Vec<_> = self.models.data.iter().map(|(name, d)| (name.clone(), d.clone())).collect();
        if own.is_empty() {
            return Err(Error::NoData { source_name: self.sources[0].name().into() });
        }
        Ok(own)
    }

    fn scoreboard(&self, files: &[String]) -> Result<Scoreboard> {
        let data = self.scored(files)?;
        let mut rows = Vec::new();
        for source in &self.models.sources {
            let weights = SourceWeights { source, device: &self.merge.device, dtype: self.dtype }.collect()?;
            rows.push((source.name().to_owned(), self.score(&weights, &data)?));
        }
        let uniform = Columns { bias: BiasStart::Same, ..Columns::default() };
        let average = Merge::new(&self.sources, uniform, self.merge.device.clone())?.weights(self.dtype)?;
        rows.push(("average".into(), self.score(&average, &data)?));
        rows.push(("DAM".into(), self.score(&self.merge.weights(self.dtype)?, &data)?));
        Ok(Scoreboard { rows })
    }

    fn inspect(&self, pattern: &str) -> Result<Inspection> {
        let glob = Glob::new(pattern).map_err(|_| Error::NoMatch { pattern: pattern.into() })?.compile_matcher();
        let exact = self.merge.tensors.iter().any(|t| t.spec.name == pattern);
        let matches = |name: &str| if exact { name == pattern } else { glob.is_match(name) || name.contains(pattern) };
        let found = self.merge.tensors.iter().filter(|t| matches(&t.spec.name));
        let tensors = found.map(|t| self.statistics(t)).collect::<Result<Vec<_>>>()?;
        if tensors.is_empty() {
            return Err(Error::NoMatch { pattern: pattern.into() });
        }
        Ok(Inspection { tensors })
    }

    fn statistics(&self, tensor: &MergedTensor) -> Result<TensorStats> {
        const COLUMNS: usize = 5;
        let rows: Vec<Vec<f64>> = tensor.coefficients.as_tensor().to_dtype(DType::F64)?.to_vec2()?;
        let stats = |row: &Vec<f64>| {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            SourceStats {
                mean,
                min: row.iter().copied().fold(f64::INFINITY, f64::min),
                max: row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                std: (row.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / n).sqrt(),
            }
        };
        let width = rows.first().map_or(0, Vec::len);
        let column = |j: usize| rows.iter().map(|row| row[j]).collect::<Vec<f64>>();
        let spread = |j: usize| {
            let c = column(j);
            c.iter().copied().fold(f64::NEG_INFINITY, f64::max) - c.iter().copied().fold(f64::INFINITY, f64::min)
        };
        let mut order: Vec<usize> = (0..width).filter(|j| spread(*j) > 1e-6).collect();
        order.sort_by(|a, b| spread(*b).total_cmp(&spread(*a)).then(a.cmp(b)));
        Ok(TensorStats {
            name: tensor.spec.name.clone(),
            kind: tensor.spec.kind.name(),
            trains: tensor.trains,
            sources: self.sources.iter().map(|s| s.name().to_owned()).zip(rows.iter().map(stats)).collect(),
            columns: order.into_iter().take(COLUMNS).map(|j| (j, column(j))).collect(),
        })
    }

    fn generate(&self, prompt: &str, limit: usize) -> Result<Answer> {
        let reader = self.sources.iter().find(|s| s.tokenizer().is_some());
        let (reader, tokenizer) = reader.and_then(|s| Some((s, s.tokenizer()?))).ok_or_else(|| Error::Sources {
            what: "no source has a tokenizer, so no text can be generated".into(),
            hint: "put tokenizer.json beside the weights",
        })?;
        let ids = prompt_ids(reader, prompt)?;
        let weights = self.merge.weights(self.dtype)?;
        let answer = generate(reader.architecture(), &weights, &ids, limit, &self.merge.device)?;
        let bad = |e: tokenizers::Error| Error::Tokenizer { file: reader.path().join("tokenizer.json"), reason: e.to_string() };
        Ok(Answer { prompt: prompt.into(), text: tokenizer.decode(&answer, true).map_err(bad)? })
    }
}

impl Dam {
    /// The merge of `models`, at its start.
    pub(crate) fn new(models: Models, columns: Columns) -> Result<Self> {
        let (device, dtype) = models.settings.place()?;
        let sources = models.merged(&columns)?;
        let merge = Merge::new(&sources, columns, device)?;
        let moments = merge.tensors.iter().map(|_| Moments::default()).collect();
        Ok(Self(Arc::new(Mutex::new(Session {
            models,
            sources,
            merge,
            dtype,
            teachers: Teachers::default(),
            moments,
            angles: Vec::new(),
            step: 0,
            drawn: 0,
            losses: Vec::new(),
            scores: None,
        }))))
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on the number of threads that is set.
    fn run<T: Send>(&self, f: impl FnOnce(&mut Session) -> Result<T> + Send) -> Result<T> {
        let mut session = self.session();
        let session: &mut Session = &mut session;
        match session.models.settings.threads {
            0 => f(session),
            threads => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let unfit = |e: rayon::ThreadPoolBuildError| Error::bad_value("threads", &threads.to_string(), e.to_string());
                pool.map_err(unfit)?.install(|| f(session))
            }
        }
    }

    /// What was wrapped.
    pub fn report(&self) -> WrapReport {
        let session = self.session();
        let trainable = session.merge.tensors.iter().filter(|t| t.trains);
        WrapReport {
            sources: session.sources.iter().map(|s| s.name().to_owned()).collect(),
            tensors: session.merge.tensors.iter().filter(|t| t.spec.kind != Kind::Bias).count(),
            coefficients: session.merge.coefficients(),
            trainable: trainable.map(|t| t.coefficients.elem_count()).sum(),
            parameters: session.sources[0].parameters(),
        }
    }

    /// The settings.
    pub fn settings(&self) -> Settings {
        self.session().models.settings.clone()
    }

    /// Changes settings between two steps; a change of device moves the sources there.
    ///
    /// # Errors
    /// A device that is not there; the settings stay as they were.
    pub fn set(&self, settings: Settings) -> Result<()> {
        let mut session = self.session();
        let (device, dtype) = settings.place()?;
        if !device.same_device(&session.merge.device) {
            let merge = Merge::new(&session.sources, session.merge.columns.clone(), device)?;
            for (new, old) in merge.tensors.iter().zip(&session.merge.tensors) {
                new.coefficients.set(old.coefficients.as_tensor())?;
            }
            session.merge = merge;
        }
        session.dtype = dtype;
        session.models.settings = settings;
        Ok(())
    }

    /// The models it merges, with their data and settings as they are now.
    pub fn models(&self) -> Models {
        self.session().models.clone()
    }

    /// Gives source `name` its data: a path or `builtin:NAME`. Returns the number of examples.
    ///
    /// # Errors
    /// As for [`Models::data`].
    pub fn data(&self, name: &str, spec: &str) -> Result<usize> {
        let mut session = self.session();
        let examples = session.models.data(name, spec)?;
        session.teachers.forget(name);
        Ok(examples)
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
    /// A source without data, a coefficient that no gradient reached, a loss that is not finite. The
    /// coefficients have not moved then.
    pub fn step(&self) -> Result<StepReport> {
        self.run(Session::step)
    }

    /// `steps` optimiser steps.
    ///
    /// # Errors
    /// As for [`Dam::step`]; the steps made before stay made.
    pub fn train(&self, steps: usize) -> Result<TrainReport> {
        self.train_with(steps, |_| ControlFlow::Continue(()))
    }

    /// [`Dam::train`], with a look after every step: `Break` stops there and keeps everything.
    ///
    /// # Errors
    /// As for [`Dam::step`].
    pub fn train_with(&self, steps: usize, mut after: impl FnMut(&StepReport) -> ControlFlow<()>) -> Result<TrainReport> {
        let (start, mut losses, mut stopped) = (Instant::now(), Vec::new(), false);
        for i in 0..steps {
            let report = self.step()?;
            losses.push(report.total);
            if after(&report).is_break() {
                stopped = i + 1 < steps;
                break;
            }
        }
        let (first, last) = (losses.first().copied().unwrap_or(0.0), losses.last().copied().unwrap_or(0.0));
        let seconds = start.elapsed().as_secs_f64();
        Ok(TrainReport { steps: losses.len(), reached: self.steps(), first, last, seconds, stopped, losses })
    }

    /// Steps made so far.
    pub fn steps(&self) -> usize {
        self.session().step
    }

    /// Bytes kept of the teachers' answers.
    pub fn teacher_bytes(&self) -> usize {
        self.session().teachers.bytes()
    }

    /// The coefficients of the tensors named or matched by `pattern`: a name, a glob (`*`, `?`), or a
    /// part of a name. `""` is all.
    ///
    /// # Errors
    /// A pattern that matches nothing.
    pub fn inspect(&self, pattern: &str) -> Result<Inspection> {
        self.session().inspect(pattern)
    }

    /// The coefficients of one tensor: sources x columns, f32.
    ///
    /// # Errors
    /// An unknown tensor.
    pub fn coefficients(&self, tensor: &str) -> Result<Tensor> {
        let session = self.session();
        let found = session.merge.tensors.iter().find(|t| t.spec.name == tensor);
        Ok(found.ok_or_else(|| Error::NoMatch { pattern: tensor.into() })?.coefficients.as_tensor().detach().copy()?)
    }

    /// Replaces the coefficients of one tensor by `values` (sources x columns, f32).
    ///
    /// # Errors
    /// An unknown tensor, or another shape.
    pub fn set_coefficients(&self, tensor: &str, values: &Tensor) -> Result<()> {
        let session = self.session();
        let found = session.merge.tensors.iter().find(|t| t.spec.name == tensor);
        Ok(found.ok_or_else(|| Error::NoMatch { pattern: tensor.into() })?.coefficients.set(values)?)
    }

    /// Scores the merge on data files; without any, on the held-out data of built-in sources, or else
    /// on the session's own data.
    ///
    /// # Errors
    /// Data that cannot be used.
    pub fn eval(&self, files: &[String]) -> Result<Scores> {
        self.run(|session| {
            let data = session.scored(files)?;
            let scores = session.score(&session.merge.weights(session.dtype)?, &data)?;
            session.scores = Some(scores.clone());
            Ok(scores)
        })
    }

    /// Scores every source, their average and the merge, on the data that [`Dam::eval`] uses.
    ///
    /// # Errors
    /// Data that cannot be used.
    pub fn scoreboard(&self, files: &[String]) -> Result<Scoreboard> {
        self.run(|session| {
            let board = session.scoreboard(files)?;
            session.scores = board.row("DAM").cloned();
            Ok(board)
        })
    }

    /// The merge's likeliest answer to `prompt`, put through the chat template if there is one, of
    /// at most `limit` tokens.
    ///
    /// # Errors
    /// No tokenizer, or a template that does not render.
    pub fn generate(&self, prompt: &str, limit: usize) -> Result<Answer> {
        self.run(|session| session.generate(prompt, limit))
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

    /// Writes the session to one file: coefficients, settings, optimiser state, and where the sources
    /// and data are.
    ///
    /// # Errors
    /// A place that has no room or may not be written; what was there stays.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<Written> {
        self.session().save(file.as_ref())
    }

    /// Shows what was wrapped as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        self.report().evcxr_display();
    }
}

impl fmt::Display for Dam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report().fmt(f)
    }
}

impl fmt::Debug for Dam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.session();
        write!(f, "Dam({} sources, step {})", session.sources.len(), session.step)
    }
}

/// The sum of scalars.
fn sum<'a>(mut scalars: impl Iterator<Item = &'a Tensor>) -> Result<Tensor> {
    let first = scalars.next().ok_or(Error::NothingToTrain)?.clone();
    Ok(scalars.try_fold(first, |total, x| total + x)?)
}

fn scalar(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.to_scalar()?)
}
