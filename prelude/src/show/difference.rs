//! The result of `diff`.

use serde::Serialize;

use super::inspect::short_name;
use super::numbers::{count, number, percent};
use super::scores::{Scores, metric_cell};
use super::table::Table;
use crate::eval::TaskScores;

shown_as_table!(Difference);

/// The number of tensors shown; the rest are counted.
const SHOWN: usize = 10;

/// The differences between the coefficients of two merges.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The comparable tensors, the largest difference first.
    pub tensors: Vec<TensorDifference>,
    /// The number of tensors that only one merge has, or whose coefficients differ in shape.
    pub incomparable: usize,
    /// The scores of both merges, if there is data.
    pub scores: Option<(Scores, Scores)>,
    /// The steps of both merges.
    pub steps: (usize, usize),
}

/// The differences between the coefficients of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDifference {
    /// The name of the tensor.
    pub name: String,
    /// The number of coefficients.
    pub coefficients: usize,
    /// The number of coefficients that differ.
    pub changed: usize,
    /// The mean of `|a - b|`.
    pub mean: f64,
    /// The largest `|a - b|`.
    pub most: f64,
}

impl Difference {
    fn table(&self) -> Table {
        let changed: Vec<&TensorDifference> =
            self.tensors.iter().filter(|t| t.changed > 0).collect();
        let mut table =
            Table::new("", ["tensor", "coefficients", "changed", "mean |a - b|", "largest"]);
        table.rows = (changed.iter().take(SHOWN))
            .map(|t| {
                vec![
                    short_name(&t.name).into(),
                    count(t.coefficients),
                    count(t.changed),
                    number(t.mean),
                    number(t.most),
                ]
            })
            .collect();
        if changed.is_empty() && !self.tensors.is_empty() {
            table.notes.push("all coefficients are the same".into());
        }
        if changed.len() > SHOWN {
            table.notes.push(format!(
                "and {} more tensors with smaller differences",
                changed.len() - SHOWN
            ));
        }
        match self.tensors.len() - changed.len() {
            0 => {}
            same if changed.is_empty() => table.notes.push(format!("compared {same} tensors")),
            same => table.notes.push(format!("{same} tensors are equal")),
        }
        if self.incomparable > 0 {
            table.notes.push(format!(
                "{} tensors are not comparable: their sources or schemes differ",
                self.incomparable
            ));
        }
        table.notes.extend(self.score_lines());
        table
    }

    /// Returns one line per data set with both scores.
    fn score_lines(&self) -> Vec<String> {
        let Some((a, b)) = &self.scores else { return Vec::new() };
        let of = |name: &str, scores: &Scores| {
            let score = scores.data.get(name)?;
            let exact = score.exact_match.map(|x| format!("{} ", percent(x))).unwrap_or_default();
            Some(format!("{exact}({:.3})", score.loss))
        };
        let line = |name: &String| {
            let (a, b) = (of(name, a)?, of(name, b)?);
            Some(format!("{name}: a {a}, b {b}"))
        };
        let mut lines: Vec<String> = a.data.keys().filter_map(line).collect();
        let task = |(name, task): (&String, &TaskScores)| {
            let (a, b) = (task.main()?, b.tasks.get(name)?.main()?);
            Some(format!("{name}, {}: a {}, b {}", a.key(), metric_cell(a), metric_cell(b)))
        };
        lines.extend(a.tasks.iter().filter_map(task));
        if !a.data.is_empty() && !b.data.is_empty() {
            lines.push(format!("mean loss: a {:.4}, b {:.4}", a.mean_loss(), b.mean_loss()));
        }
        lines.insert(
            0,
            format!("a: step {}, b: step {}; exact match (loss):", self.steps.0, self.steps.1),
        );
        lines
    }
}
