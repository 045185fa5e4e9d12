//! solve: computes the coefficients layer by layer, without gradients of a loss.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::DType;

use super::progress::Task;
use super::{Dam, Merged, Models, Session, on_threads};
use crate::checkpoint::Source;
use crate::coefficients::{BiasStart, Columns, Merge, Wrap};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::methods::{Given, Linear, Plan};
use crate::solve::{Inputs, SolveSettings, Solved, Sweep, Whole};

/// The result of [`Dam::solve`].
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SolveReport {
    /// The solved parts of the model, in order.
    pub parts: Vec<Solved>,
    /// Wall-clock time.
    pub seconds: f64,
    /// Whether it was stopped early; the parts solved so far are kept.
    pub stopped: bool,
}

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
    /// assert!(report.parts.iter().all(|part| part.share() < 1.0));
    /// assert!(dam.loss()?.total < 0.5 * before);
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid settings, a source without data, a scheme whose parameters belong to several layers,
    /// or a system without a unique solution. Parts solved before the error are kept.
    /// [`Error::Interrupted`] if none was.
    pub fn solve(&self, settings: &SolveSettings) -> Result<SolveReport> {
        self.solve_with(settings, |_| ControlFlow::Continue(()))
    }

    /// Like [`Dam::solve`], but calls `after` after every part of the model; `Break` stops and
    /// keeps all parts so far.
    ///
    /// # Errors
    /// As for [`Dam::solve`].
    pub fn solve_with(
        &self,
        settings: &SolveSettings,
        mut after: impl FnMut(&Solved) -> ControlFlow<()>,
    ) -> Result<SolveReport> {
        let start = Instant::now();
        let mut sweep = self.with_weights(|session| session.sweep(settings))?;
        let mut task = Task::begin("solve", Some(sweep.parts()), Some(self));
        let (mut parts, mut stopped) = (Vec::new(), false);
        loop {
            // The session is free between two parts.
            let solved = match self.with_weights(|session| session.solve_part(&mut sweep)) {
                // An interrupted part is discarded; those before it are kept.
                Err(Error::Interrupted) if !parts.is_empty() => {
                    stopped = true;
                    break;
                }
                solved => solved?,
            };
            let Some(solved) = solved else { break };
            task.step(|| solved.to_string(), None, None);
            let enough = after(&solved).is_break() || interrupt::requested();
            parts.push(solved);
            if enough {
                stopped = sweep.parts() > 0;
                break;
            }
        }
        if !parts.is_empty() {
            let whole = if stopped { "partly " } else { "" };
            self.session().start = Some(format!("{whole}{}", description(settings)));
        }
        Ok(SolveReport { parts, seconds: start.elapsed().as_secs_f64(), stopped })
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
        let dam = self.wrap(how)?;
        if dam.solve(settings)?.stopped {
            return Err(Error::Interrupted);
        }
        Ok(dam)
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
        self.settings.check()?;
        let plan = self.plan(Arc::new(Linear::default()))?;
        let (device, _) = self.settings.device_and_dtype()?;
        let average = Columns { bias: BiasStart::Same, ..Columns::default() };
        let merge = Merge::new(&plan.sources, average, device)?;
        let mut whole = Whole::default();
        on_threads(self.settings.threads, || {
            let mut sweep = self.sweep(&merge, &plan.sources, settings)?;
            let mut task = Task::begin("solve", Some(sweep.parts()), None);
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
        let notes = [plan.notes, vec![description(settings)]].concat();
        Ok(Merged::new(self.clone(), Plan { method, tensors, recipe, notes, ..plan }))
    }

    fn sweep(&self, merge: &Merge, sources: &[Source], settings: &SolveSettings) -> Result<Sweep> {
        let data = |name: &str| self.data.get(name).map(|data| &**data);
        let max_length = self.settings.max_length;
        Sweep::new(merge, sources, settings.clone(), DType::F32, max_length, data)
    }
}

/// Describes what solved coefficients come from.
fn description(settings: &SolveSettings) -> String {
    let on = match (settings.inputs, settings.examples) {
        (Inputs::Tasks, _) => "task vectors".to_owned(),
        (_, 1) => "1 example per source".to_owned(),
        (_, many) => format!("{many} examples per source"),
    };
    format!("solved on {on} (ridge {})", settings.ridge)
}

impl Session {
    fn sweep(&self, settings: &SolveSettings) -> Result<Sweep> {
        self.models.sweep(&self.merge, &self.sources, settings)
    }

    fn solve_part(&mut self, sweep: &mut Sweep) -> Result<Option<Solved>> {
        let solved = sweep.next(&self.merge, &self.sources, self.models.base(), None)?;
        if solved.is_some() {
            // The moments belong to coefficients that are gone.
            self.moments.iter_mut().for_each(|moments| *moments = Default::default());
            self.changed();
        }
        Ok(solved)
    }
}
