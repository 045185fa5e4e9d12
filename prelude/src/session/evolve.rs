//! evolve: searches weights and densities per source and group of layers with CMA-ES.
//!
//! A candidate is a mergekit recipe with one slice per group of layers; each slice has a weight per
//! source and, if the method uses it, a density per source. The search starts at weights `1/N` and
//! densities 1 with step size 1/6. Candidates are ranked by their loss on part of the sources'
//! training data. Source: Hansen, arXiv 1604.00772; for merging, Akiba et al., arXiv 2403.13187.

use std::fmt::{self, Write};
use std::ops::{ControlFlow, Range};
use std::path::Path;

use cmaes::{CMAESOptions, DVector};

use super::merged::Merged;
use super::models::Models;
use super::progress::Task;
use super::tune::{EXAMPLES, Trial};
use crate::checkpoint::{BASE, Written, new_file};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::methods::{MethodEntry, Origin, find};
use crate::show::EvolveReport;

/// The initial step size of the search.
const SIGMA: f64 = 1.0 / 6.0;

/// The loss of an infeasible candidate.
const WORST: f64 = 1e6;

/// Settings of the search.
///
/// ```
/// use std::ops::ControlFlow;
/// use dam_prelude::{Evolve, load};
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// let search = Evolve { method: "linear".into(), budget: 8, examples: 2, groups: 2, ..Evolve::default() };
/// let evolved = models.evolve(&search, |_| ControlFlow::Continue(()))?;
/// assert!(evolved.report.best <= evolved.report.first);
/// assert!(evolved.recipe.contains("merge_method: linear"));
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evolve {
    /// The merge method of the candidates. Empty: `dare_ties` if there is a base, else `linear`.
    pub method: String,
    /// The maximum number of candidates.
    pub budget: usize,
    /// The number of layer groups; each has its own weights.
    pub groups: usize,
    /// Examples per source for ranking candidates.
    pub examples: usize,
    /// The seed of the search and of the method's random draws.
    pub seed: u64,
}

impl Default for Evolve {
    fn default() -> Self {
        Self { method: String::new(), budget: 200, groups: 4, examples: EXAMPLES, seed: 0 }
    }
}

/// The state of the search after a candidate.
#[derive(Clone, Copy, Debug)]
pub struct EvolveProgress {
    /// The number of candidates tried so far.
    pub number: usize,
    /// The loss of this candidate.
    pub loss: f64,
    /// The lowest loss so far.
    pub best: f64,
}

/// The result of a search.
#[derive(Clone)]
pub struct Evolved {
    /// The best merge.
    pub merged: Merged,
    /// The mergekit recipe of the best merge, in YAML.
    pub recipe: String,
    /// A report of the search.
    pub report: EvolveReport,
}

impl Evolved {
    /// Writes the recipe to a new file.
    ///
    /// # Errors
    /// The file exists, the disk is full, or the path is not writable.
    pub fn write(&self, file: impl AsRef<Path>) -> Result<Written> {
        new_file(file.as_ref(), self.recipe.as_bytes())
    }

    /// Shows the report as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        self.report.evcxr_display();
    }
}

impl fmt::Display for Evolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report.fmt(f)
    }
}

impl fmt::Debug for Evolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evolved({} candidates, loss {:.4})", self.report.tried, self.report.best)
    }
}

/// The meaning of a candidate's numbers.
struct SearchSpace<'a> {
    method: &'a MethodEntry,
    sources: Vec<&'a str>,
    base: Option<&'a str>,
    groups: Vec<Range<usize>>,
    has_density: bool,
    /// Whether `density +- epsilon` must stay between 0 and 1, as in DELLA.
    has_epsilon: bool,
    has_seed: bool,
    seed: u64,
}

impl Models {
    /// Searches for the best merge by a method. `watch` is called after every candidate; `Break`
    /// ends the search with the best candidate so far.
    ///
    /// # Errors
    /// A method without weights, sources without data, a family that cannot be run, or a budget of
    /// 0.
    pub fn evolve(
        &self,
        search: &Evolve,
        mut watch: impl FnMut(&EvolveProgress) -> ControlFlow<()>,
    ) -> Result<Evolved> {
        for (key, value) in
            [("budget", search.budget), ("groups", search.groups), ("examples", search.examples)]
        {
            if value == 0 {
                return Err(Error::bad_value(key, "0", "an integer of at least 1"));
            }
        }
        let space = SearchSpace::new(self, search)?;
        let start = space.start();
        let mut task = Task::begin("evolve", Some(search.budget), None);
        let mut watch = |tried: &EvolveProgress| {
            task.step(
                || format!("candidate {}: best loss {:.4}", tried.number, tried.best),
                Some(tried.best),
                None,
            );
            if interrupt::requested() { ControlFlow::Break(()) } else { watch(tried) }
        };
        let attempt = |x: &[f64]| -> Result<(String, Merged, Trial)> {
            let recipe = space.recipe(x);
            let merged = self.merge_yaml(&recipe)?;
            let trial = merged.trial(search.examples)?;
            Ok((recipe, merged, trial))
        };
        // The starting point is a candidate too; if it fails, all candidates fail.
        let whole = |error| match error {
            Error::Recipe { reason, .. } => Error::bad_value(
                "method",
                space.method.name,
                format!("a method for these sources: {reason}"),
            ),
            error => error,
        };
        let (recipe, merged, trial) = attempt(&start).map_err(whole)?;
        let first = if trial.loss.is_finite() { trial.loss } else { WORST };
        let mut stopped = watch(&EvolveProgress { number: 1, loss: first, best: first }).is_break();
        let mut tried = 1;
        let mut tokens = trial.tokens;
        let mut best = (first, recipe, merged);
        let evaluate = |x: &DVector<f64>| {
            if stopped {
                return WORST;
            }
            let mut loss = WORST;
            match attempt(x.as_slice()) {
                Ok((recipe, merged, trial)) => {
                    tokens += trial.tokens;
                    loss = if trial.loss.is_finite() { trial.loss.min(WORST) } else { WORST };
                    if loss < best.0 {
                        best = (loss, recipe, merged);
                    }
                }
                // An interrupted candidate has no result.
                Err(Error::Interrupted) => {
                    stopped = true;
                    return WORST;
                }
                // Infeasible weights and weights that overflow get the worst loss.
                Err(_) => {}
            }
            tried += 1;
            stopped = watch(&EvolveProgress { number: tried, loss, best: best.0 }).is_break()
                || tried >= search.budget;
            loss
        };
        let options = CMAESOptions::new(start.clone(), SIGMA).seed(search.seed);
        let invalid = |_| {
            Error::bad_value(
                "groups",
                &search.groups.to_string(),
                "a number that leaves something to search",
            )
        };
        let mut state = options.build(evaluate).map_err(invalid)?;
        while state.function_evals() + 1 < search.budget && state.next().is_none() {}
        drop(state);
        let report = EvolveReport {
            method: space.method.name.into(),
            tried,
            tokens,
            first,
            best: best.0,
            dimensions: start.len(),
            stopped: tried < search.budget,
        };
        Ok(Evolved { merged: best.2, recipe: best.1, report })
    }
}

impl<'a> SearchSpace<'a> {
    fn new(models: &'a Models, search: &Evolve) -> Result<Self> {
        let base = models.base();
        let default = if base.is_some() { "dare_ties" } else { "linear" };
        let method = find(if search.method.is_empty() { default } else { &search.method })?;
        let has = |name: &str| method.keys.iter().any(|key| key.name == name);
        if !has("weight") {
            return Err(Error::bad_value(
                "method",
                method.name,
                "a method with weights, such as linear, ties or dare_ties",
            ));
        }
        let sources: Vec<&str> = models.names().filter(|name| *name != BASE).collect();
        let Some(first) = sources.first() else { return Err(models.too_few(0, false)) };
        let layers = models.source(first)?.architecture()?.layers;
        let groups = search.groups.min(layers);
        Ok(Self {
            method,
            sources,
            base: base.map(|_| BASE).filter(|_| method.origin != Origin::Never),
            groups: (0..groups).map(|i| i * layers / groups..(i + 1) * layers / groups).collect(),
            has_density: has("density"),
            has_epsilon: has("epsilon"),
            has_seed: has("seed"),
            seed: search.seed,
        })
    }

    /// Returns weights of `1/N`, then densities of 1, by group and source.
    fn start(&self) -> Vec<f64> {
        let count = self.groups.len() * self.sources.len();
        let weights = vec![1.0 / self.sources.len() as f64; count];
        let densities = vec![1.0; if self.has_density { count } else { 0 }];
        [weights, densities].concat()
    }

    /// Maps a search variable to a density.
    fn density(&self, x: f64) -> f64 {
        if !self.has_epsilon {
            return x.clamp(0.01, 1.0);
        }
        // With the default epsilon of 0.15, only these densities are valid.
        if x < 0.925 { x.clamp(0.16, 0.84) } else { 1.0 }
    }

    /// Returns the recipe of a candidate.
    fn recipe(&self, x: &[f64]) -> String {
        let mut text = format!("merge_method: {}\n", self.method.name);
        let count = self.groups.len() * self.sources.len();
        // A name may contain characters special in YAML; JSON strings are valid YAML.
        let quoted = |name: &str| serde_json::Value::from(name).to_string();
        let mut line = |text_line: String| writeln!(text, "{text_line}").unwrap_or(());
        if let Some(base) = self.base {
            line(format!("base_model: {}", quoted(base)));
        }
        if self.has_seed {
            line(format!("parameters:\n  seed: {}", self.seed));
        }
        line("slices:".into());
        for (group, layers) in self.groups.iter().enumerate() {
            line("- sources:".into());
            if let Some(base) = self.base {
                line(format!(
                    "  - model: {}\n    layer_range: [{}, {}]",
                    quoted(base),
                    layers.start,
                    layers.end
                ));
            }
            for (i, source) in self.sources.iter().enumerate() {
                let at = group * self.sources.len() + i;
                line(format!(
                    "  - model: {}\n    layer_range: [{}, {}]\n    parameters:",
                    quoted(source),
                    layers.start,
                    layers.end
                ));
                line(format!("      weight: {:.6}", x[at]));
                if self.has_density {
                    line(format!("      density: {:.6}", self.density(x[count + at])));
                }
            }
        }
        text
    }
}
