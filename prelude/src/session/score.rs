//! Scores a merge, its sources and their average on data.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{DType, Device};

use crate::checkpoint::{Architecture, BUILTIN_PREFIX, Source};
use crate::coefficients::{BiasStart, Columns, Merge};
use crate::data::{Dataset, builtin_datasets};
use crate::error::{Error, Result};
use crate::eval::{Score, choose, score};
use crate::model::{SourceWeights, Weights};
use crate::show::{AVERAGE, Scoreboard, Scores};

use super::models::Models;

/// Data sets to score on, by name.
pub(super) struct EvalData {
    sets: Vec<(String, Dataset)>,
    held_out: bool,
}

/// What scoring a merge of sources needs.
pub(super) struct Scorer<'a> {
    /// All loaded models, with their data and settings.
    pub models: &'a Models,
    /// The merged sources.
    pub sources: &'a [Source],
    /// The architecture of the merge.
    pub architecture: &'a Architecture,
    pub device: &'a Device,
    pub dtype: DType,
}

impl EvalData {
    pub fn new(sets: Vec<(String, Dataset)>, held_out: bool) -> Self {
        Self { sets, held_out }
    }

    /// Returns the tokens of all examples, each truncated to `max_length`.
    pub fn tokens(&self, max_length: usize) -> u64 {
        let examples = self.sets.iter().flat_map(|(_, d)| &d.examples);
        examples.map(|e| e.ids.len().min(max_length) as u64).sum()
    }
}

impl Scorer<'_> {
    /// Scores `weights` on every data set of `data`.
    pub fn score<W: Weights + ?Sized>(&self, weights: &W, data: &EvalData) -> Result<Scores> {
        self.score_as(self.architecture, weights, data)
    }

    fn score_as<W: Weights + ?Sized>(
        &self,
        architecture: &Architecture,
        weights: &W,
        data: &EvalData,
    ) -> Result<Scores> {
        let limit = self.models.settings.max_length;
        let one = |(name, d): &(String, Dataset)| {
            let mut score = score(architecture, weights, &d.examples, limit, self.device)?;
            if !d.questions.is_empty() {
                let choices = choose(architecture, weights, &d.questions, limit, self.device)?;
                score.multiple_choice = Some(choices.accuracy);
                // Multiple-choice questions are truncated on the left, so they can be scored even
                // if `score` has no token left.
                if let (0, Some(mean)) = (score.tokens, choices.right.nats_per_token()) {
                    score = Score {
                        tokens: choices.right.tokens,
                        loss: -mean,
                        perplexity: (-mean).exp(),
                        ..score
                    };
                }
            }
            if score.tokens == 0 {
                let what = format!(
                    "`{name}` has no token to predict: each example has a single token or is truncated before its answer"
                );
                return Err(Error::Sources {
                    what,
                    hint: "use longer examples, or raise max_length: set max_length=2048",
                });
            }
            Ok((name.clone(), score))
        };
        let unused = data
            .sets
            .iter()
            .filter(|(_, d)| !d.unused.is_empty())
            .map(|(name, d)| (name.clone(), d.unused.clone()));
        let scores = data.sets.iter().map(one).collect::<Result<_>>()?;
        Ok(Scores { data: scores, held_out: data.held_out, unused: unused.collect() })
    }

    /// Returns the data to score on: the given files, or the held-out sets of built-in sources, or
    /// else the session's own data.
    pub fn eval_data(&self, files: &[String]) -> Result<EvalData> {
        let mut sets = self.named(files)?;
        if sets.is_empty() {
            sets = self.models.data.iter().map(|(name, d)| (name.clone(), (**d).clone())).collect();
        }
        if sets.is_empty() {
            return Err(Error::NoData { source_name: self.sources[0].name().into() });
        }
        // Training data is never held out, even if it is named explicitly.
        let learnt = |spec: &str| self.models.data.values().any(|d| d.spec == spec);
        let held_out = !sets.iter().any(|(_, d)| learnt(&d.spec));
        Ok(EvalData { sets, held_out })
    }

    /// Returns the given files, or, if there are none, the held-out sets of built-in sources.
    fn named(&self, files: &[String]) -> Result<Vec<(String, Dataset)>> {
        let reader = self.models.tokenizer_source().unwrap_or(&self.sources[0]);
        if !files.is_empty() {
            let stem = |f: &String| {
                Path::new(f)
                    .file_stem()
                    .map_or_else(|| f.clone(), |s| s.to_string_lossy().into_owned())
            };
            let unique = files.iter().map(stem).collect::<BTreeSet<_>>().len() == files.len();
            let name = |f: &String| if unique { stem(f) } else { f.clone() };
            return files.iter().map(|f| Ok((name(f), Dataset::read(f, reader)?))).collect();
        }
        let skills: Vec<&str> = self.sources.iter().filter_map(Source::builtin).collect();
        // `a-b-heldout` needs the skills a and b.
        let needs = |name: &&str| {
            name.strip_suffix("-heldout").is_some_and(|n| n.split('-').all(|s| skills.contains(&s)))
        };
        let read = |n: &str| {
            Ok((
                n.trim_end_matches("-heldout").to_owned(),
                Dataset::read(&format!("{BUILTIN_PREFIX}{n}"), reader)?,
            ))
        };
        builtin_datasets().into_iter().filter(needs).map(read).collect()
    }

    /// Scores every source, their average and the merge `weights`, which is called `name`.
    pub fn scoreboard<W: Weights + ?Sized>(
        &self,
        name: &str,
        weights: &W,
        files: &[String],
    ) -> Result<Scoreboard> {
        let data = self.eval_data(files)?;
        let mut rows = Vec::new();
        for source in &self.models.sources {
            let weights = SourceWeights { source, device: self.device, dtype: self.dtype };
            rows.push((
                source.name().to_owned(),
                self.score_as(source.architecture()?, &weights, &data)?,
            ));
        }
        let uniform = Columns { bias: BiasStart::Same, ..Columns::default() };
        let average = Merge::new(self.sources, uniform, self.device.clone())?;
        rows.push((
            AVERAGE.into(),
            self.score_as(&average.architecture, &average.as_weights(self.dtype), &data)?,
        ));
        rows.push((name.into(), self.score(weights, &data)?));
        Ok(Scoreboard { rows })
    }
}
