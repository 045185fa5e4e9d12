//! How good models are on data: scores of the merge, its sources and their average; and its answers.

use std::collections::BTreeSet;
use std::path::Path;

use crate::checkpoint::{BUILTIN_PREFIX, Source, tokenizing};
use crate::coefficients::{BiasStart, Columns, Merge};
use crate::data::{Dataset, builtin_datasets, prompt_ids};
use crate::error::{Error, Result};
use crate::eval::{generate, score};
use crate::model::{SourceWeights, Weights};
use crate::show::{AVERAGE, Answer, MERGED, Scoreboard, Scores};

use super::Session;

/// Data to score on, each by its name.
pub(super) struct Scored {
    sets: Vec<(String, Dataset)>,
    held_out: bool,
}

impl Session {
    /// Scores `weights` on every data set of `data`.
    pub(super) fn score<W: Weights + ?Sized>(&self, weights: &W, data: &Scored) -> Result<Scores> {
        let (architecture, limit) = (self.sources[0].architecture()?, self.models.settings.max_length);
        let one = |(name, d): &(String, Dataset)| {
            let score = score(architecture, weights, &d.examples, limit, &self.merge.device)?;
            if score.tokens == 0 {
                let what =
                    format!("`{name}` has no token to predict: its examples have one token each, or are cut before their answer");
                return Err(Error::Sources { what, hint: "give longer examples, or raise max_length: set max_length=2048" });
            }
            Ok((name.clone(), score))
        };
        Ok(Scores { data: data.sets.iter().map(one).collect::<Result<_>>()?, held_out: data.held_out })
    }

    /// The data to score on: the files named, or the held-out sets of built-in sources, or else the
    /// data that the session merges on.
    pub(super) fn scored(&self, files: &[String]) -> Result<Scored> {
        let mut sets = self.named(files)?;
        if sets.is_empty() {
            sets = self.models.data.iter().map(|(name, d)| (name.clone(), d.clone())).collect();
        }
        if sets.is_empty() {
            return Err(Error::NoData { source_name: self.sources[0].name().into() });
        }
        // What the merge learns from is not held out, whoever names it.
        let learnt = |spec: &str| self.models.data.values().any(|d| d.spec == spec);
        let held_out = !sets.iter().any(|(_, d)| learnt(&d.spec));
        Ok(Scored { sets, held_out })
    }

    /// The files named; without any, the held-out sets of built-in sources.
    fn named(&self, files: &[String]) -> Result<Vec<(String, Dataset)>> {
        let reader = self.models.speaker().unwrap_or(&self.sources[0]);
        if !files.is_empty() {
            let stem = |f: &String| Path::new(f).file_stem().map_or_else(|| f.clone(), |s| s.to_string_lossy().into_owned());
            let unique = files.iter().map(stem).collect::<BTreeSet<_>>().len() == files.len();
            let name = |f: &String| if unique { stem(f) } else { f.clone() };
            return files.iter().map(|f| Ok((name(f), Dataset::read(f, reader)?))).collect();
        }
        let skills: Vec<&str> = self.sources.iter().filter_map(Source::builtin).collect();
        // `a-b-heldout` needs the skills a and b.
        let needs = |name: &&str| name.strip_suffix("-heldout").is_some_and(|n| n.split('-').all(|s| skills.contains(&s)));
        let read =
            |n: &str| Ok((n.trim_end_matches("-heldout").to_owned(), Dataset::read(&format!("{BUILTIN_PREFIX}{n}"), reader)?));
        builtin_datasets().into_iter().filter(needs).map(read).collect()
    }

    pub(super) fn scoreboard(&self, files: &[String]) -> Result<Scoreboard> {
        let data = self.scored(files)?;
        let mut rows = Vec::new();
        for source in &self.models.sources {
            let weights = SourceWeights { source, device: &self.merge.device, dtype: self.dtype };
            rows.push((source.name().to_owned(), self.score(&weights, &data)?));
        }
        let uniform = Columns { bias: BiasStart::Same, ..Columns::default() };
        let average = Merge::new(&self.sources, uniform, self.merge.device.clone())?;
        rows.push((AVERAGE.into(), self.score(&average.as_weights(self.dtype), &data)?));
        rows.push((MERGED.into(), self.score(&self.merge.as_weights(self.dtype), &data)?));
        Ok(Scoreboard { rows })
    }

    pub(super) fn generate(&self, prompt: &str, limit: usize) -> Result<Answer> {
        let (reader, tokenizer) =
            self.models.speaker().and_then(|s| Some((s, s.tokenizer()?))).ok_or_else(|| Error::Sources {
                what: "no source has a tokenizer, so no text can be generated".into(),
                hint: "put tokenizer.json beside the weights",
            })?;
        let ids = prompt_ids(reader, prompt)?;
        let weights = self.merge.weights(self.dtype)?;
        let answer = generate(reader.architecture()?, &weights, &ids, limit, &self.merge.device)?;
        let text = tokenizing(&reader.path().join("tokenizer.json"), || tokenizer.decode(&answer, true))?;
        Ok(Answer { prompt: prompt.into(), text })
    }
}
