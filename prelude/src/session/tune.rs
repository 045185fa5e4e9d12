//! Scores a merge on a small part of its sources' training data, to select parameters. Held-out
//! data is never used.

use super::merged::Merged;
use super::models::Models;
use super::score::EvalData;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::methods::MethodEntry;

/// The result of scoring a merge on tuning data.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// The mean over sources of the loss on their data, in nats.
    pub loss: f64,
    /// Tokens run.
    pub tokens: u64,
}

impl Models {
    /// Returns the first `examples` examples of every source's data.
    fn tuning(&self, examples: usize) -> Result<EvalData> {
        if self.data.is_empty() {
            let source_name = self.names().next().unwrap_or("source").into();
            return Err(Error::NoData { source_name });
        }
        let mut sets = Vec::new();
        for (name, data) in &self.data {
            let set = Dataset {
                spec: data.spec.clone(),
                examples: data.examples.iter().take(examples).cloned().collect(),
                questions: Vec::new(),
                unused: Vec::new(),
            };
            sets.push((name.clone(), set));
        }
        Ok(EvalData::new(sets, false))
    }
}

/// The default number of tuning examples per source.
pub const EXAMPLES: usize = 48;

impl Merged {
    /// Returns the loss on the first `examples` examples of each source's data, averaged over
    /// sources, in nats. Use it to select between merges; held-out data is for final scores only.
    ///
    /// # Errors
    /// Sources without data, or a family that cannot be run.
    pub fn training_loss(&self, examples: usize) -> Result<f64> {
        Ok(self.trial(examples)?.loss)
    }

    /// Scores the merge on the first `examples` examples of every source's data.
    pub(super) fn trial(&self, examples: usize) -> Result<Trial> {
        let models = self.models();
        let data = models.tuning(examples)?;
        let scores = self.score_on(&data)?;
        Ok(Trial { loss: scores.mean_loss(), tokens: data.tokens(models.settings.max_length) })
    }
}

/// Makes the greedy soup by the loss on the first `examples` examples of every source's data. Also
/// returns the tokens run.
///
/// # Errors
/// Fewer than two sources, or missing data.
pub(super) fn greedy_soup(models: &Models, examples: usize) -> Result<(Merged, String, u64)> {
    let mut tokens = 0;
    let soup = models.greedy_soup(|candidate| {
        let trial = candidate.trial(examples)?;
        tokens += trial.tokens;
        Ok(-trial.loss)
    })?;
    let chosen = soup.report().notes.join("; ");
    Ok((soup, chosen, tokens))
}

/// Selects the best parameters of a method's grid on the first `examples` examples of every
/// source's data. Returns the merge, its parameters, and the tokens run by all trials.
///
/// # Errors
/// The method cannot merge the sources, or data is missing.
pub(super) fn tune(
    models: &Models,
    method: &MethodEntry,
    examples: usize,
) -> Result<(Merged, String, u64)> {
    let mut candidates = method.candidates();
    let seed = models.settings.seed.to_string();
    // Methods that draw at random do so with the session's seed.
    if let Some(key) = method.keys.iter().find(|key| key.name == "seed" && key.default != seed) {
        candidates.iter_mut().for_each(|pairs| pairs.push((key.name, &seed)));
    }
    let mut best = None::<(f64, Merged, String)>;
    let mut tokens = 0;
    for pairs in &candidates {
        let merged = models.merge_named(method.name, pairs)?;
        let chosen =
            pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        if candidates.len() == 1 {
            return Ok((merged, chosen, 0));
        }
        let trial = merged.trial(examples)?;
        tokens += trial.tokens;
        // A loss that is not finite is never selected.
        if trial.loss.is_finite() && best.as_ref().is_none_or(|(loss, ..)| trial.loss < *loss) {
            best = Some((trial.loss, merged, chosen));
        }
    }
    let (_, merged, chosen) =
        best.ok_or_else(|| Error::Diverged { what: "loss", step: 0, value: f64::NAN })?;
    Ok((merged, chosen, tokens))
}
