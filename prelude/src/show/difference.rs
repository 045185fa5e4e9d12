//! What `diff` gives.

use serde::Serialize;

use super::inspect::short_name;
use super::numbers::{count, number, percent};
use super::{Scores, Table};

shown_as_table!(Difference);

/// Tensors that are shown; the others are counted.
const SHOWN: usize = 10;

/// How far the coefficients of two merges are apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Every tensor that can be compared, the one that differs most first.
    pub tensors: Vec<TensorDifference>,
    /// Tensors that only one has, or with coefficients of another shape.
    pub incomparable: usize,
    /// The scores of both, where there is data.
    pub scores: Option<(Scores, Scores)>,
    /// Steps that both made.
    pub steps: (usize, usize),
}

/// How far the coefficients of one tensor are apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDifference {
    /// The tensor.
    pub name: String,
    /// All its coefficients.
    pub coefficients: usize,
    /// Those that are not the same.
    pub changed: usize,
    /// The mean of `|a - b|`.
    pub mean: f64,
    /// The largest `|a - b|`.
    pub most: f64,
}

impl Difference {
    fn table(&self) -> Table {
        let changed: Vec<&TensorDifference> = self.tensors.iter().filter(|t| t.changed > 0).collect();
        let mut table = Table::new("", ["tensor", "coefficients", "changed", "mean |a - b|", "largest"]);
        table.rows = (changed.iter().take(SHOWN))
            .map(|t| vec![short_name(&t.name).into(), count(t.coefficients), count(t.changed), number(t.mean), number(t.most)])
            .collect();
        if changed.is_empty() && !self.tensors.is_empty() {
            table.notes.push("all coefficients are the same".into());
        }
        if changed.len() > SHOWN {
            table.notes.push(format!("and {} tensors more that differ less", changed.len() - SHOWN));
        }
        match self.tensors.len() - changed.len() {
            0 => {}
            same if changed.is_empty() => table.notes.push(format!("in {same} tensors")),
            same => table.notes.push(format!("{same} tensors are the same in both")),
        }
        if self.incomparable > 0 {
            table.notes.push(format!("{} tensors are not comparable: other sources or another scheme", self.incomparable));
        }
        table.notes.extend(self.scored());
        table
    }

    /// A line a data set: what a is and what b is.
    fn scored(&self) -> Vec<String> {
        let Some((a, b)) = &self.scores else { return Vec::new() };
        let of = |name: &str, scores: &Scores| {
            let score = scores.data.get(name)?;
            let exact = score.exact_match.map(|x| format!("{} ", percent(x))).unwrap_or_default();
            Some(format!("{exact}({:.3})", score.loss))
        };
        let line = |name: &String| {
            let (a, b) = (of(name, a)?, of(name, b)?);
            Some(format!("{name}: {a} here, {b} there"))
        };
        let mut lines: Vec<String> = a.data.keys().filter_map(line).collect();
        lines.push(format!("mean loss: {:.4} here, {:.4} there", a.mean_loss(), b.mean_loss()));
        lines.insert(0, format!("here: step {}, there: step {}; exact match (loss):", self.steps.0, self.steps.1));
        lines
    }
}
