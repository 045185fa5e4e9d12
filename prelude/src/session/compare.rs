//! compare: DAM, evolution and the static methods on the same sources and the same held-out data, with what each
//! of them cost.
//!
//! Every method's own parameters are tuned: the static ones over a small grid, by their loss on a part of the
//! data that the sources were tuned on; what that took is part of their cost. DAM and evolution learn from that
//! data too. Nobody sees what is scored at the end.

use std::ops::ControlFlow;

use super::evolve::Evolve;
use super::progress::Task;
use super::tune::{EXAMPLES, greedy_soup, tuned};
use super::{Dam, Models};
use crate::coefficients::Columns;
use crate::error::{Error, Result};
use crate::eval::{Cost, measured};
use crate::interrupt;
use crate::methods::{GREEDY_SOUP, METHODS, find};
use crate::show::{Comparison, Contender, Scores};

/// The name of DAM among methods.
pub const DAM: &str = "dam";

/// The name of evolution among methods.
pub const EVOLVE: &str = "evolve";

/// What to compare, and how hard each may try.
///
/// ```
/// use std::ops::ControlFlow;
/// use dam_prelude::{Compare, load};
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// let contest = Compare { methods: vec!["dam".into(), "slerp".into()], steps: 2, examples: 2, ..Compare::default() };
/// let table = models.compare(&contest, |_| ControlFlow::Continue(()))?;
/// assert_eq!(table.rows.iter().map(|row| row.method.as_str()).collect::<Vec<_>>(), ["dam", "slerp"]);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// `dam`, `evolve`, `greedy_soup` and names of methods, a row each.
    pub methods: Vec<String>,
    /// Data to score on; none: the held-out data of built-in sources, or else the session's own.
    pub files: Vec<String>,
    /// Steps that DAM trains, with the session's settings.
    pub steps: usize,
    /// Candidates that evolution tries.
    pub budget: usize,
    /// Examples of each source's data that parameters are chosen by.
    pub examples: usize,
}

impl Default for Compare {
    fn default() -> Self {
        let methods = [DAM, "linear", GREEDY_SOUP, "task_arithmetic", "ties", "dare_ties", EVOLVE].map(str::to_owned);
        Self { methods: methods.into(), files: Vec::new(), steps: 150, budget: 200, examples: EXAMPLES }
    }
}

impl Models {
    /// Makes a merge by every method and scores all of them. `watch` is told what is done next; `Break` ends the
    /// comparison with the rows that are there.
    ///
    /// # Errors
    /// An unknown method, sources without data or of a family that cannot be run. A method that cannot merge
    /// these sources has a row that says why.
    pub fn compare(&self, contest: &Compare, mut watch: impl FnMut(&str) -> ControlFlow<()>) -> Result<Comparison> {
        for name in &contest.methods {
            let own = [DAM, EVOLVE, GREEDY_SOUP];
            if !own.contains(&name.as_str()) && find(name).is_err() {
                return Err(Error::unknown("method", name, own.into_iter().chain(METHODS.iter().map(|m| m.name))));
            }
        }
        let settings = &self.settings;
        let mut table = Comparison {
            notes: vec![
                format!(
                    "tuned on {} training examples a source; seed {}; dam: {} steps, lr {}, batch size {}; evolve: {} candidates",
                    contest.examples, settings.seed, contest.steps, settings.lr, settings.batch_size, contest.budget
                ),
                "tokens: run through a model to make the merge; one that goes back too counts three times; memory: of the whole program"
                    .into(),
            ],
            ..Comparison::default()
        };
        let mut task = Task::begin("compare", Some(contest.methods.len()), None);
        for name in &contest.methods {
            if watch(name).is_break() || interrupt::requested() {
                table.notes.push(format!("stopped before {name}"));
                break;
            }
            table.rows.push(match self.contend(name, contest, &mut watch) {
                Ok((chosen, scores, cost)) => {
                    Contender { method: name.clone(), chosen, scores: Some(scores), cost: Some(cost), refused: None }
                }
                // What is wrong with these sources, or with the method for them.
                Err(error @ (Error::Sources { .. } | Error::BadValue { .. })) => {
                    let refused = Some(error.to_string());
                    Contender { method: name.clone(), refused, ..Contender::default() }
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

    fn contend(
        &self,
        name: &str,
        contest: &Compare,
        watch: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(String, Scores, Cost)> {
        match name {
            DAM => {
                let ((dam, said), cost) = measured(|| self.trained(contest, watch))?;
                Ok((said, dam.eval(&contest.files)?, cost))
            }
            EVOLVE => {
                let search =
                    Evolve { budget: contest.budget, examples: contest.examples, seed: self.settings.seed, ..Evolve::default() };
                let ((merged, said), cost) = measured(|| {
                    let evolved = self.evolve(&search, |tried| watch(&format!("{EVOLVE}: candidate {}", tried.tried)))?;
                    let report = &evolved.report;
                    let said = format!("{} of {} numbers, {} candidates", report.method, report.dimensions, report.tried);
                    Ok::<_, Error>(((evolved.merged.clone(), said), report.tokens))
                })?;
                Ok((said, merged.eval(&contest.files)?, cost))
            }
            _ => {
                let ((merged, said), cost) = measured(|| {
                    let (merged, said, tokens) = match name {
                        GREEDY_SOUP => greedy_soup(self, contest.examples)?,
                        _ => tuned(self, find(name)?, contest.examples)?,
                    };
                    // A merge that is never made costs nothing.
                    merged.inspect("")?;
                    Ok::<_, Error>(((merged, said), tokens))
                })?;
                Ok((said, merged.eval(&contest.files)?, cost))
            }
        }
    }

    fn trained(&self, contest: &Compare, watch: &mut impl FnMut(&str) -> ControlFlow<()>) -> Result<((Dam, String), u64)> {
        // Not the latest: it is gone when it is scored.
        let dam = Dam::new(self.clone(), Columns::default().into())?;
        dam.train_with(contest.steps, |step| watch(&format!("{DAM}: step {}", step.step)))?;
        let (said, tokens) = (format!("{} steps", dam.steps()), dam.tokens());
        Ok(((dam, said), tokens))
    }
}
