//! How well a merge does on a small part of the data that its sources were tuned on, by which parameters are
//! chosen. Held-out data is never looked at.

use super::score::Scored;
use super::{Merged, Models};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::methods::Entry;

/// How a merge did.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// The mean over sources of the loss on their data, in nats.
    pub loss: f64,
    /// Tokens run.
    pub tokens: u64,
}

impl Models {
    /// The first `examples` of every source's data.
    fn tuning(&self, examples: usize) -> Result<Scored> {
        let first = |d: &Dataset| {
            let examples = d.examples.iter().take(examples).cloned().collect();
            Dataset { spec: d.spec.clone(), examples, questions: Vec::new(), unused: Vec::new() }
        };
        match self.data.is_empty() {
            true => Err(Error::NoData { source_name: self.names().next().unwrap_or("source").into() }),
            false => Ok(Scored::new(self.data.iter().map(|(name, d)| (name.clone(), first(d))).collect(), false)),
        }
    }
}

/// Examples of each source's data that a choice is made by, where nothing else is said.
pub const EXAMPLES: usize = 48;

impl Merged {
    /// The mean over sources of its loss, in nats, on the first `examples` of the data that each was tuned on: what
    /// to choose between merges by, as held-out data is for scoring alone.
    ///
    /// # Errors
    /// Sources without data, or a family that cannot be run here.
    pub fn training_loss(&self, examples: usize) -> Result<f64> {
        Ok(self.trial(examples)?.loss)
    }

    /// Tries it on the first `examples` of every source's data.
    pub(super) fn trial(&self, examples: usize) -> Result<Trial> {
        let models = self.models();
        let data = models.tuning(examples)?;
        let scores = self.score_on(&data)?;
        Ok(Trial { loss: scores.mean_loss(), tokens: data.tokens(models.settings.max_length) })
    }
}

/// The greedy soup by the loss on the first `examples` of every source's data, and the tokens that it took.
///
/// # Errors
/// Fewer than two sources, or data that is missing.
pub(super) fn greedy_soup(models: &Models, examples: usize) -> Result<(Merged, String, u64)> {
    let mut tokens = 0;
    let soup = models.greedy_soup(|candidate| {
        let trial = candidate.trial(examples)?;
        tokens += trial.tokens;
        Ok(-trial.loss)
    })?;
    let said = soup.report().notes.join("; ");
    Ok((soup, said, tokens))
}

/// The best of a method's grid on the first `examples` of every source's data: the merge, its parameters, and
/// the tokens that all trials ran.
///
/// # Errors
/// Sources that the method cannot merge, or data that is missing.
pub(super) fn tuned(models: &Models, method: &Entry, examples: usize) -> Result<(Merged, String, u64)> {
    let candidates = method.candidates();
    let (mut best, mut tokens) = (None::<(f64, Merged, String)>, 0);
    for pairs in &candidates {
        let merged = models.merge_named(method.name, pairs)?;
        let said = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        if candidates.len() == 1 {
            return Ok((merged, said, 0));
        }
        let trial = merged.trial(examples)?;
        tokens += trial.tokens;
        // What is not finite is no candidate, wherever in the grid it stands.
        if trial.loss.is_finite() && best.as_ref().is_none_or(|(loss, ..)| trial.loss < *loss) {
            best = Some((trial.loss, merged, said));
        }
    }
    let (_, merged, said) = best.ok_or_else(|| Error::Diverged { what: "loss", step: 0, value: f64::NAN })?;
    Ok((merged, said, tokens))
}
