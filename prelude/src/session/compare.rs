//! compare: runs DAM, evolutionary search and the static methods on the same sources and the same
//! held-out data, and reports the scores and costs.
//!
//! The parameters of every method are tuned. Static methods are tuned over a small grid by their
//! loss on part of the sources' training data; tuning is part of their cost. DAM and evolution use
//! the same data. The held-out data is used only for the final scores.

use std::ops::ControlFlow;

use super::Dam;
use super::evolve::Evolve;
use super::models::Models;
use super::progress::Task;
use super::score::Evaluation;
use super::tune::{EXAMPLES, greedy_soup, tune};
use crate::coefficients::Columns;
use crate::error::{Error, Result};
use crate::eval::{Cost, measured};
use crate::interrupt;
use crate::methods::{GREEDY_SOUP, METHODS, find};
use crate::show::{Comparison, MethodResult, Scores};
use crate::solve::{SOLVED_METHODS, SolveSettings, SolvedMethod};

/// The method name of DAM.
pub const DAM: &str = "dam";

/// The method name of evolutionary search.
pub const EVOLVE: &str = "evolve";

/// The method name of DAM's coefficients by least squares.
pub const SOLVE: &str = "solve";

/// The methods to compare, and their budgets.
///
/// ```
/// use std::ops::ControlFlow;
/// use dam_prelude::{Compare, load};
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// let options = Compare { methods: vec!["dam".into(), "slerp".into()], steps: 2, examples: 2, ..Compare::default() };
/// let table = models.compare(&options, |_| ControlFlow::Continue(()))?;
/// assert_eq!(table.rows.iter().map(|row| row.method.as_str()).collect::<Vec<_>>(), ["dam", "slerp"]);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// `dam`, `solve`, `evolve`, `greedy_soup`, and names of static methods and of
    /// [`SOLVED_METHODS`]; one row each.
    pub methods: Vec<String>,
    /// Data files to score on, and tasks as `task:FILE.yaml`. Empty: the held-out data of built-in
    /// sources, or else the session's own data.
    pub files: Vec<String>,
    /// The maximum number of questions of a task; `None` for all.
    pub limit: Option<usize>,
    /// Whether questions of tasks go through the chat template.
    pub chat: bool,
    /// Training steps of DAM, with the session's settings.
    pub steps: usize,
    /// Candidates of the evolutionary search.
    pub budget: usize,
    /// Examples per source for tuning parameters.
    pub examples: usize,
    /// The number of seeds, from the session's on, with each of which every method runs: the first
    /// gives its row, all of them the mean score and its standard deviation.
    pub seeds: usize,
}

impl Default for Compare {
    fn default() -> Self {
        let methods = [
            DAM,
            SOLVE,
            "regmean",
            "linear",
            GREEDY_SOUP,
            "task_arithmetic",
            "ties",
            "dare_ties",
            EVOLVE,
        ];
        Self {
            methods: methods.map(str::to_owned).into(),
            files: Vec::new(),
            limit: None,
            chat: false,
            steps: 150,
            budget: 200,
            examples: EXAMPLES,
            seeds: 1,
        }
    }
}

impl Compare {
    fn evaluation(&self) -> Evaluation {
        Evaluation {
            files: self.files.clone(),
            limit: self.limit,
            chat: self.chat,
            ..Evaluation::default()
        }
    }
}

impl Models {
    /// Makes a merge by every method and scores each of them. `watch` is called with a description
    /// of the next task; `Break` ends the comparison and keeps the finished rows.
    ///
    /// # Errors
    /// An unknown method, sources without data, or a model family that cannot be run. If a method
    /// cannot merge these sources, its row gives the reason.
    pub fn compare(
        &self,
        options: &Compare,
        mut watch: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Comparison> {
        for name in &options.methods {
            let own = [DAM, SOLVE, EVOLVE, GREEDY_SOUP].into_iter();
            let own = own.chain(SOLVED_METHODS.iter().map(|m| m.name));
            if !own.clone().any(|own| own == name) && find(name).is_err() {
                let known = own.chain(METHODS.iter().map(|m| m.name));
                return Err(Error::unknown("method", name, known));
            }
        }
        let settings = &self.settings;
        let mut table = Comparison {
            notes: vec![
                format!(
                    "tuned on {} training examples per source; seed {}; dam: {} steps, lr {}, batch size {}; evolve: {} candidates; least-squares methods: not tuned",
                    options.examples, settings.seed, options.steps, settings.lr, settings.batch_size, options.budget
                ),
                "tokens: run through a model to make the merge; tokens with a backward pass count three times; memory: peak of the whole program"
                    .into(),
            ],
            ..Comparison::default()
        };
        let mut task = Task::begin("compare", Some(options.methods.len()), None);
        for name in &options.methods {
            if watch(name).is_break() || interrupt::requested() {
                table.notes.push(format!("stopped before {name}"));
                break;
            }
            table.rows.push(match self.run_seeds(name, options, &mut watch) {
                Ok(row) => row,
                // The sources are unsuitable, or unsuitable for this method.
                Err(
                    error
                    @ (Error::Sources { .. } | Error::BadValue { .. } | Error::Refused { .. }),
                ) => {
                    let refused = Some(error.to_string());
                    MethodResult { method: name.clone(), refused, ..MethodResult::default() }
                }
                Err(Error::Interrupted) => {
                    table.notes.push(format!("stopped at {name}"));
                    break;
                }
                Err(error) => return Err(error),
            });
            task.step(|| format!("{name} is done"), None, None);
        }
        Ok(table)
    }

    /// Runs a method with every seed.
    fn run_seeds(
        &self,
        name: &str,
        options: &Compare,
        watch: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<MethodResult> {
        let (chosen, scores, cost) = self.run_method(name, options, watch)?;
        let mut row = MethodResult {
            method: name.into(),
            chosen,
            scores: Some(scores),
            cost: Some(cost),
            ..MethodResult::default()
        };
        if options.seeds > 1 {
            row.seeds.extend(row.mean());
        }
        for seed in 1..options.seeds {
            let mut models = self.clone();
            models.settings.seed = self.settings.seed.wrapping_add(seed as u64);
            let mut watch = |task: &str| watch(&format!("seed {}: {task}", models.settings.seed));
            let (_, scores, _) = models.run_method(name, options, &mut watch)?;
            let again = MethodResult { scores: Some(scores), ..MethodResult::default() };
            row.seeds.extend(again.mean());
        }
        Ok(row)
    }

    fn run_method(
        &self,
        name: &str,
        options: &Compare,
        watch: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(String, Scores, Cost)> {
        match name {
            DAM => {
                let ((dam, chosen), cost) = measured(|| self.train_dam(options, watch))?;
                Ok((chosen, dam.eval_with(&options.evaluation())?, cost))
            }
            EVOLVE => {
                let search = Evolve {
                    budget: options.budget,
                    examples: options.examples,
                    seed: self.settings.seed,
                    ..Evolve::default()
                };
                let ((merged, chosen), cost) = measured(|| {
                    let evolved = self.evolve(&search, |tried| {
                        watch(&format!("{EVOLVE}: candidate {}", tried.number))
                    })?;
                    let report = &evolved.report;
                    let chosen = format!(
                        "{} with {} dimensions, {} candidates",
                        report.method, report.dimensions, report.tried
                    );
                    Ok::<_, Error>(((evolved.merged.clone(), chosen), report.tokens))
                })?;
                Ok((chosen, merged.eval_with(&options.evaluation())?, cost))
            }
            SOLVE => {
                let settings = SolveSettings { unrestricted: false, ..SolveSettings::default() };
                let (dam, cost) = measured(|| {
                    let dam = Dam::new(self.clone(), Columns::default().into())?;
                    let report =
                        dam.solve_with(&settings, |part| watch(&format!("{SOLVE}: {part}")))?;
                    if report.stopped {
                        return Err(Error::Interrupted);
                    }
                    Ok::<_, Error>((dam, settings.runs() * report.tokens as u64))
                })?;
                Ok((dam.start().unwrap_or_default(), dam.eval_with(&options.evaluation())?, cost))
            }
            _ => {
                let ((merged, chosen), cost) = measured(|| {
                    let (merged, chosen, tokens) = match (SolvedMethod::find(name), name) {
                        (Some(method), _) => {
                            let (merged, tokens) = self.merge_solved_of(&(method.settings)())?;
                            let chosen = merged.report().notes.join("; ");
                            (merged, chosen, tokens)
                        }
                        (None, GREEDY_SOUP) => greedy_soup(self, options.examples)?,
                        (None, _) => tune(self, find(name)?, options.examples)?,
                    };
                    // A merge that is never computed costs nothing.
                    merged.inspect("")?;
                    Ok::<_, Error>(((merged, chosen), tokens))
                })?;
                Ok((chosen, merged.eval_with(&options.evaluation())?, cost))
            }
        }
    }

    fn train_dam(
        &self,
        options: &Compare,
        watch: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<((Dam, String), u64)> {
        // Not the latest merge: it is dropped after scoring.
        let dam = Dam::new(self.clone(), Columns::default().into())?;
        dam.train_with(options.steps, |step| watch(&format!("{DAM}: step {}", step.step)))?;
        let chosen = format!("{} steps", dam.steps());
        let tokens = dam.tokens();
        Ok(((dam, chosen), tokens))
    }
}
