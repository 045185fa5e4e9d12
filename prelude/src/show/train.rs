//! The results of `loss`, `step` and `train`.

use serde::Serialize;

use super::figure::{Figure, Series};
use super::numbers::number;
use super::table::Table;
use crate::train::History;

shown_with_picture!(LossReport, StepReport, TrainReport);

impl Figure {
    /// Plots the loss over steps: the total and each of its terms.
    pub fn losses(history: &History) -> Self {
        let series = |name: &str, values: &[(usize, f64)]| {
            Series::new(name, values.iter().map(|(step, x)| (*step as f64, *x)))
        };
        let mut all = vec![Series { is_main: true, ..series("total", &history.total) }];
        all.extend(history.terms.iter().map(|(name, values)| series(name, values)));
        Self::curve("loss before each step", "step", "loss", all)
    }

    /// Plots the terms of a loss, one bar each; `None` for a single term.
    fn terms(terms: &[(String, f64)]) -> Option<Self> {
        let groups = terms.iter().map(|(name, _)| name.clone()).collect();
        let values = terms.iter().map(|(_, x)| *x).collect();
        (terms.len() > 1).then(|| Self::bars("", "", groups, vec![("loss".into(), values)]))
    }
}

/// The result of `loss`: the objective on the batch of the next step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LossReport {
    /// The sum of all terms.
    pub total: f64,
    /// Every active term with its weight applied: `kl.NAME`, `cosine`, ...
    pub terms: Vec<(String, f64)>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl LossReport {
    fn figure(&self) -> Option<Figure> {
        Figure::terms(&self.terms)
    }

    fn table(&self) -> Table {
        let mut table = Table::new("", ["term", "loss"]);
        table.rows =
            self.terms.iter().map(|(name, loss)| vec![name.clone(), number(*loss)]).collect();
        table.rows.push(vec!["total".into(), number(self.total)]);
        table.notes = self.notes.clone();
        table
    }
}

/// The result of `step`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The number of the step, from 1.
    pub step: usize,
    /// The loss before the step.
    pub total: f64,
    /// Its terms, as in [`LossReport`].
    pub terms: Vec<(String, f64)>,
    /// The norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The learning rate used.
    pub lr: f64,
}

impl StepReport {
    fn figure(&self) -> Option<Figure> {
        Figure::terms(&self.terms)
    }

    fn table(&self) -> Table {
        let mut table = Table::new("", ["step", "loss", "gradient norm", "lr"]);
        table.rows.push(vec![
            self.step.to_string(),
            number(self.total),
            number(self.grad_norm),
            format!("{:e}", self.lr),
        ]);
        table
    }
}

/// The result of `train`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainReport {
    /// Steps made by this call.
    pub steps: usize,
    /// The total number of steps so far.
    pub reached: usize,
    /// The loss before the first step of this call.
    pub first: f64,
    /// The loss before the last step of this call.
    pub last: f64,
    /// The learning rate of the last step.
    pub lr: f64,
    /// Wall-clock time.
    pub seconds: f64,
    /// Whether it was stopped early.
    pub stopped: bool,
    /// The loss before every step.
    pub losses: Vec<f64>,
    /// The terms by name, each with the numbers of the steps.
    pub terms: Vec<(String, Vec<(usize, f64)>)>,
}

impl TrainReport {
    /// Plots the loss over the steps of this call: the total and each of its terms.
    pub fn plot(&self) -> Figure {
        let first = (self.reached + 1).saturating_sub(self.losses.len());
        let total = self.losses.iter().enumerate().map(|(i, loss)| (first + i, *loss)).collect();
        Figure::losses(&History { total, terms: self.terms.clone() })
    }

    /// Whether the last losses exceed the first by more than the variation between batches.
    fn has_risen(&self) -> bool {
        const FEW: usize = 10;
        let part = self.losses.len() / 3;
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        part >= FEW
            && mean(&self.losses[self.losses.len() - part..]) > 1.1 * mean(&self.losses[..part])
    }

    fn figure(&self) -> Option<Figure> {
        (self.losses.len() > 1).then(|| self.plot())
    }

    fn table(&self) -> Table {
        let mut table = Table::new("", ["steps", "reached", "first loss", "last loss", "seconds"]);
        let row = [
            self.steps.to_string(),
            self.reached.to_string(),
            number(self.first),
            number(self.last),
        ];
        table.rows.push([row.to_vec(), vec![format!("{:.1}", self.seconds)]].concat());
        if self.has_risen() {
            table.notes.push(
                "the loss has risen: lower the learning rate (set lr=), or use more examples per step (set batch_size=)".into(),
            );
        }
        if self.steps > 0 && self.lr == 0.0 {
            table
                .notes
                .push("the linear schedule has ended: the learning rate is 0 (set total_steps=, or schedule=constant)".into());
        }
        if self.stopped {
            table.notes.push(format!(
                "stopped after step {}: completed steps are kept; train continues from there",
                self.reached
            ));
        }
        table
    }
}
