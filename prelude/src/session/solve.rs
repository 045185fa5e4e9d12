//! solve: computes the coefficients layer by layer, without gradients of a loss.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::DType;

use super::progress::Task;
use super::{Dam, Evaluation, Merged, Models, Session, on_threads};
use crate::checkpoint::{Source, capacity, make_room};
use crate::coefficients::{BiasStart, Columns, Merge, Wrap};
use crate::device::is_composed;
use crate::error::{Error, Result, gigabytes};
use crate::interrupt;
use crate::methods::{Given, Linear, Plan};
use crate::show::{OtherText, SolveReport};
use crate::solve::{FullWeights, Inputs, SolveSettings, SolvedPart, Sweep, bytes};
use crate::train::available_bytes;

/// The learning rate from an average, divided by that from a solution; measured in the guide's
/// results.
const SMALLER_STEPS: f64 = 5.0;

impl Dam {
    /// Computes the coefficients that best make every layer give what each source gives on that
    /// source's data, in one sweep through the layers. Training may follow.
    ///
    /// ```
    /// use dam_prelude::solve::SolveSettings;
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let before = dam.loss()?.total;
    /// let report = dam.solve(&SolveSettings { examples: 8, ..SolveSettings::default() })?;
    /// assert!(report.parts.iter().all(|part| part.share() < Some(1.0)));
    /// assert!(dam.loss()?.total < 0.5 * before);
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid settings, a source without data, a scheme whose parameters belong to several layers,
    /// a system without a unique solution, or [`Error::Interrupted`] before the first layer is
    /// solved. The coefficients are unchanged.
    pub fn solve(&self, settings: &SolveSettings) -> Result<SolveReport> {
        self.solve_with(settings, |_| ControlFlow::Continue(()))
    }

    /// Like [`Dam::solve`], but calls `after` after every part of the model; `Break` stops and
    /// keeps the layers so far.
    ///
    /// # Errors
    /// As for [`Dam::solve`].
    pub fn solve_with(
        &self,
        settings: &SolveSettings,
        mut after: impl FnMut(&SolvedPart) -> ControlFlow<()>,
    ) -> Result<SolveReport> {
        let before = self.snapshot()?;
        self.solve_kept(settings, &mut after).or_else(|error| {
            self.restore(&before)?;
            Err(error)
        })
    }

    /// Returns the learning rate to train with after solving if the current one is meant for the
    /// average, to two digits.
    pub(crate) fn lr_after_solving(&self) -> Option<f64> {
        format!("{:.1e}", self.session().models.settings.lr / SMALLER_STEPS).parse().ok()
    }

    /// Solves, and on an error leaves the parts solved so far.
    fn solve_kept(
        &self,
        settings: &SolveSettings,
        after: &mut impl FnMut(&SolvedPart) -> ControlFlow<()>,
    ) -> Result<SolveReport> {
        let score = || -> Result<Vec<(String, f64)>> {
            if settings.other.is_empty() {
                return Ok(Vec::new());
            }
            let scores =
                self.with_weights(|session| session.scores_on(&Evaluation::of(&settings.other)))?;
            Ok(scores.data.into_iter().map(|(name, score)| (name, score.loss)).collect())
        };
        let before = score()?;
        let start = Instant::now();
        let mut sweep = self.with_weights(|session| session.sweep(settings))?;
        let (scheme, is_new) = {
            let session = self.session();
            (session.merge.wrap.scheme.name(), session.step == 0 && session.start.is_none())
        };
        let mut report = SolveReport {
            scheme,
            parts: Vec::new(),
            examples: sweep.examples(),
            tokens: sweep.tokens(),
            seconds: 0.0,
            stopped: false,
            other: Vec::new(),
            lr: None,
        };
        let mut task = Task::begin("solve", Some(sweep.parts()), Some(self));
        while sweep.parts() > 0 {
            // The session is free between two parts.
            let part = match self.with_weights(|session| session.solve_part(&mut sweep)) {
                Ok(Some(part)) => part,
                Ok(None) => break,
                // An interrupted part is discarded; the layers before it are kept.
                Err(Error::Interrupted) if report.layers() > 0 => {
                    report.stopped = true;
                    break;
                }
                Err(error) => return Err(error),
            };
            report.parts.push(part.clone());
            task.draw(|| part.to_string(), || report.plot());
            if after(&part).is_break() || interrupt::requested() {
                if report.layers() == 0 {
                    return Err(Error::Interrupted);
                }
                report.stopped = sweep.parts() > 0;
                break;
            }
        }
        drop(task);
        report.seconds = start.elapsed().as_secs_f64();
        if report.parts.is_empty() {
            return Err(Error::Refused {
                message: "nothing to solve: the sources do not differ in the trained tensors"
                    .into(),
                hint: "train other kinds of tensors (wrap train=), or load other sources".into(),
            });
        }
        let layers = if report.stopped { Some(report.layers()) } else { settings.layers };
        {
            let mut session = self.session();
            let step = session.step;
            session.start = Some(description(settings, layers, step));
        }
        report.lr = self.lr_after_solving().filter(|_| is_new);
        // A stop while scoring loses nothing that was solved.
        let after = if interrupt::requested() { Ok(Vec::new()) } else { score() };
        let after = match after {
            Err(Error::Interrupted) => Vec::new(),
            after => after?,
        };
        for ((name, before), (_, after)) in before.into_iter().zip(after) {
            report.other.push(OtherText { name, before, after });
        }
        Ok(report)
    }
}

impl Models {
    /// Wraps these sources with coefficients that start at their solution.
    ///
    /// ```
    /// use dam_prelude::solve::SolveSettings;
    /// use dam_prelude::{PerTensor, load};
    ///
    /// let models = load(["builtin:japanese", "builtin:math"])?;
    /// let dam = models.wrap_solved(PerTensor, &SolveSettings::default())?;
    /// assert!(dam.report().notes[0].contains("solved on 16 examples per source"));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Models::wrap`] and [`Dam::solve`]; [`Error::Interrupted`] if it was stopped.
    pub fn wrap_solved(&self, how: impl Into<Wrap>, settings: &SolveSettings) -> Result<Dam> {
        let dam = Dam::new(self.clone(), how.into())?;
        if dam.solve(settings)?.stopped {
            return Err(Error::Interrupted);
        }
        dam.session().check_memory()?;
        Ok(dam.into_latest())
    }

    /// Merges the projections of all layers by the best weights without any scheme, and averages
    /// the rest: RegMean, RegMean++, WUDI, or with the default settings the target that solved
    /// coefficients have.
    ///
    /// ```
    /// use dam_prelude::load;
    /// use dam_prelude::solve::SolveSettings;
    ///
    /// let models = load(["builtin:japanese", "builtin:math"])?;
    /// let merged = models.merge_solved(&SolveSettings::regmean())?;
    /// assert_eq!(merged.report().method, "regmean");
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Dam::solve`]; [`Error::Interrupted`].
    pub fn merge_solved(&self, settings: &SolveSettings) -> Result<Merged> {
        Ok(self.merge_solved_of(settings)?.0)
    }

    /// Like [`Models::merge_solved`]; also returns the number of tokens run through a model.
    pub(super) fn merge_solved_of(&self, settings: &SolveSettings) -> Result<(Merged, u64)> {
        self.settings.check()?;
        if !settings.other.is_empty() {
            return Err(Error::Refused {
                message: "`other` does not apply to a merge without coefficients".into(),
                hint: "score the merge: eval FILE".into(),
            });
        }
        let plan = self.plan(Arc::new(Linear::default()))?;
        plan.models.iter().try_for_each(Source::check_unchanged)?;
        plan.sources.iter().try_for_each(|s| plan.sources[0].check_trainable(s))?;
        let (device, _) = self.settings.device_and_dtype(&plan.sources)?;
        let average = Columns { bias: BiasStart::Same, ..Columns::default() };
        let merge = Merge::new(&plan.sources, average, device)?;
        let mut whole = FullWeights::default();
        let mut tokens = 0;
        on_threads(self.settings.threads, || {
            let mut sweep = self.sweep(&merge, &plan.sources, settings, true)?;
            tokens = settings.runs() * sweep.tokens() as u64;
            let layers = settings.layers.unwrap_or(merge.architecture.layers);
            let mut task = Task::begin("solve", Some(layers), None);
            while let Some(part) =
                sweep.next(&merge, &plan.sources, self.base(), Some(&mut whole))?
            {
                task.step(|| part.to_string(), None, None);
            }
            Ok(())
        })?;
        let (method, mut tensors) = (settings.method(), plan.tensors);
        for tensor in &mut tensors {
            if let Some(weight) = whole.0.remove(&tensor.operands.spec().name) {
                let values = weight.flatten_all()?.to_vec1()?;
                tensor.method = Arc::new(Given { name: method, values: Arc::new(values) });
            }
        }
        let recipe = serde_json::json!({"method": method, "parameters": settings});
        let recipe = serde_json::to_string_pretty(&recipe).unwrap_or_default();
        let recipe = format!("```json\n{recipe}\n```");
        let notes = [plan.notes, vec![description(settings, settings.layers, 0)]].concat();
        let plan = Plan { method, tensors, recipe, notes, ..plan };
        Ok((Merged::new(self.clone(), plan), tokens))
    }

    /// Prepares a sweep for the coefficients of `merge`, or `without_scheme` for whole weights.
    fn sweep(
        &self,
        merge: &Merge,
        sources: &[Source],
        settings: &SolveSettings,
        without_scheme: bool,
    ) -> Result<Sweep> {
        let data = |name: &str| self.data.get(name).map(|data| &**data);
        let max_length = self.settings.max_length;
        let sweep = Sweep::new(merge, sources, settings.clone(), DType::F32, max_length, data)?;
        let needed = bytes(merge, sweep.tokens(), without_scheme);
        let on_device = is_composed(&merge.device);
        let available =
            if on_device { capacity(sources, &merge.device)? } else { available_bytes() };
        if needed > available {
            return Err(Error::Refused {
                message: format!(
                    "solving needs {} of memory; {} is free",
                    gigabytes(needed),
                    gigabytes(available)
                ),
                hint: "lower examples or max_length".into(),
            });
        }
        if on_device {
            make_room(sources, &merge.device, needed)?;
        }
        Ok(sweep)
    }
}

/// Describes what solved coefficients come from: all, or those of the first `layers` layers, after
/// `step` steps of training.
fn description(settings: &SolveSettings, layers: Option<usize>, step: usize) -> String {
    let on = match (settings.inputs, settings.examples) {
        (Inputs::Tasks, _) => "task vectors".to_owned(),
        (_, 1) => "1 example per source".to_owned(),
        (_, many) => format!("{many} examples per source"),
    };
    let which = match layers {
        None => String::new(),
        Some(1) => "the first layer ".into(),
        Some(layers) => format!("the first {layers} layers "),
    };
    let when = if step > 0 { format!(" after step {step}") } else { String::new() };
    let mut options = vec![format!("ridge {}", settings.ridge)];
    if settings.inputs != Inputs::Tasks {
        let default = SolveSettings::default();
        if settings.target != default.target {
            options.push(format!("target {}", settings.target.name()));
        }
        if settings.inputs != default.inputs {
            options.push(format!("inputs {}", settings.inputs.name()));
        }
        if settings.corrects_inputs() && !settings.residual {
            options.push("without the residual stream".into());
        }
    }
    format!("{which}solved on {on} ({}){when}", options.join(", "))
}

impl Session {
    fn sweep(&self, settings: &SolveSettings) -> Result<Sweep> {
        self.models.sweep(&self.merge, &self.sources, settings, false)
    }

    fn solve_part(&mut self, sweep: &mut Sweep) -> Result<Option<SolvedPart>> {
        let solved = sweep.next(&self.merge, &self.sources, self.models.base(), None)?;
        if solved.is_some() {
            // The direction belongs to coefficients that are gone; the scale remains.
            self.moments.iter_mut().for_each(|moments| moments.m.fill(0.0));
            self.changed();
        }
        Ok(solved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;

    fn models() -> Models {
        load(["builtin:japanese", "builtin:math"]).unwrap()
    }

    fn values(dam: &Dam, name: &str) -> Vec<f32> {
        dam.coefficients(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    const SETTINGS: SolveSettings = SolveSettings {
        examples: 4,
        ridge: 0.1,
        target: crate::solve::Target::Own,
        inputs: Inputs::Merged,
        residual: true,
        unrestricted: false,
        layers: None,
        other: Vec::new(),
    };

    #[test]
    fn a_stop_keeps_the_parts_solved_so_far_and_an_undo_takes_them_back() {
        let dam = models().wrap(Columns::default()).unwrap();
        let names = [0, 3].map(|layer| format!("model.layers.{layer}.mlp.down_proj.weight"));
        let (start, before) = (dam.snapshot().unwrap(), names.clone().map(|n| values(&dam, &n)));
        let mut seen = Vec::new();
        let report = dam.solve_with(&SETTINGS, |part| {
            // The session is free.
            assert_eq!(dam.steps(), 0);
            seen.push(part.layer);
            if part.layer == Some(1) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let report = report.unwrap();
        assert_eq!(seen, [None, Some(0), Some(1)]);
        assert!(report.stopped && report.parts.len() == 3);
        assert_ne!(values(&dam, &names[0]), before[0]);
        assert_eq!(values(&dam, &names[1]), before[1]);
        assert!(
            dam.report().notes[0].starts_with("the first 2 layers solved on 4 examples per source")
        );
        dam.restore(&start).unwrap();
        assert_eq!(names.clone().map(|n| values(&dam, &n)), before);
        assert!(!dam.report().notes.iter().any(|note| note.contains("solved")));
    }

    #[test]
    fn a_solved_merge_is_saved_opened_and_forked() {
        let dam = models().wrap_solved(Columns::default(), &SETTINGS).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("session");
        dam.save(&file).unwrap();
        for other in [Dam::open(&file).unwrap(), dam.fork().unwrap()] {
            assert_eq!(other.report().notes, dam.report().notes);
            assert_eq!(other.loss().unwrap().total, dam.loss().unwrap().total);
        }
        let loss = dam.loss().unwrap().total;
        assert!(dam.train(2).is_ok() && loss < 1.0, "{loss}");
    }

    #[test]
    fn merges_without_a_scheme_are_written_and_scored() {
        let models = load(["base=builtin:base", "builtin:japanese", "builtin:math"]).unwrap();
        let loss = |merged: &Merged| merged.eval(&[]).unwrap().mean_loss();
        let average = loss(&models.merge(Linear::default()).unwrap());
        for (settings, method) in [
            (SolveSettings::regmean(), "regmean"),
            (SolveSettings::regmean_plus_plus(), "regmean_plus_plus"),
            (SolveSettings::wudi(), "wudi"),
            (SETTINGS, "unrestricted"),
        ] {
            let merged = models.merge_solved(&SolveSettings { examples: 4, ..settings }).unwrap();
            assert_eq!(merged.report().method, method);
            let found = loss(&merged);
            assert!(found < average, "{method}: {found}, average {average}");
        }
    }

    /// The goal for the built-in specialists; gradient descent needs about 100 steps for it.
    #[test]
    fn three_specialists_answer_three_questions_of_four() {
        let models = load(["builtin:japanese", "builtin:math", "builtin:sql"]).unwrap();
        let dam = models.wrap_solved(Columns::default(), &SolveSettings::default()).unwrap();
        let scores = dam.eval(&[]).unwrap();
        let exact: f64 = scores.data.values().filter_map(|s| s.exact_match).sum();
        let exact = exact / scores.data.len() as f64;
        assert!(exact >= 0.75, "{exact}: {scores}");
    }
}
