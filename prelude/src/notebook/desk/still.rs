//! What a desk shows, kept for the picture that replaces it where there are no controls.

use super::groups::Group;
use crate::show::{AnswerProbabilities, LossReport, Table};

/// What a desk shows.
#[derive(Clone, Default)]
pub(super) struct Still {
    pub step: usize,
    /// Mean coefficients by group and source.
    pub means: Vec<Vec<f64>>,
    pub answer: Option<AnswerProbabilities>,
    pub loss: Option<LossReport>,
}

impl Still {
    /// Returns the tables: mean coefficients, and answers to the prompt.
    pub fn tables(&self, groups: &[Group], sources: &[String]) -> Vec<Table> {
        let loss = self.loss.as_ref().map(|loss| format!(", loss {:.5}", loss.total));
        let title = format!("mean coefficients at step {}{}", self.step, loss.unwrap_or_default());
        let head = std::iter::once("group").chain(sources.iter().map(String::as_str));
        let mut coefficients = Table::new(title, head);
        for (group, means) in groups.iter().zip(&self.means) {
            let means = means.iter().map(|mean| format!("{mean:.3}"));
            coefficients.rows.push(std::iter::once(group.label.clone()).chain(means).collect());
        }
        let answer = self
            .answer
            .as_ref()
            .map(|answer| Table { title: format!("prompt: {}", answer.prompt), ..answer.table() });
        std::iter::once(coefficients).chain(answer).collect()
    }
}

/// Returns the loss with its terms in one line.
pub(super) fn loss_line(loss: &LossReport) -> String {
    let terms: Vec<String> =
        loss.terms.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    format!("loss {:.5} = {}", loss.total, terms.join(" + "))
}
