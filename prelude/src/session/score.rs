//! Scores a merge, its sources and their average on data.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{DType, Device};

use crate::checkpoint::{Architecture, BUILTIN_PREFIX, Source};
use crate::coefficients::{BiasStart, Columns, Merge};
use crate::data::{Dataset, builtin_datasets};
use crate::error::{Error, Result, refuse};
use crate::eval::{
    EncodedTask, Score, Task, TaskGroup, TaskList, TaskOptions, choose, score, task_of,
};
use crate::model::{SourceWeights, Weights};
use crate::show::{AVERAGE, Scoreboard, Scores};

use super::models::Models;

/// What to score on.
///
/// ```
/// use dam_prelude::{Columns, Evaluation, load};
///
/// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
/// let files = vec!["builtin:math-heldout".into()];
/// let scores = dam.eval_with(&Evaluation { files, ..Evaluation::default() })?;
/// let score = scores.data.values().next().unwrap();
/// assert_eq!((score.right.len(), score.stderr.is_some()), (200, true));
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Data files, data sets, and tasks as `task:FILE.yaml`. Empty: the held-out data of built-in
    /// sources, or else the session's own data.
    pub files: Vec<String>,
    /// The maximum number of questions of a task, from the first; `None` for all.
    pub limit: Option<usize>,
    /// The maximum number of tokens that the model receives for a question of a task; `None` for
    /// the model's positions. Data files have the setting `max_length`.
    pub max_length: Option<usize>,
    /// Whether questions of tasks go through the chat template, as `--apply_chat_template` of
    /// lm-evaluation-harness does. Data files always use it.
    pub chat: bool,
}

impl Evaluation {
    /// Scoring on `files`, without limits.
    pub(super) fn of(files: &[String]) -> Self {
        Self { files: files.to_vec(), ..Self::default() }
    }
}

/// Data sets and tasks to score on.
#[derive(Default)]
pub(super) struct EvalData {
    /// By name.
    sets: Vec<(String, Dataset)>,
    tasks: Vec<Task>,
    groups: Vec<TaskGroup>,
    options: TaskOptions,
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
        Self { sets, held_out, ..Self::default() }
    }

    /// Returns the tokens of all examples, each truncated to `max_length`.
    pub fn tokens(&self, max_length: usize) -> u64 {
        let examples = self.sets.iter().flat_map(|(_, d)| &d.examples);
        examples.map(|e| e.ids.len().min(max_length) as u64).sum()
    }
}

impl Scorer<'_> {
    /// Scores `weights` on every data set and task of `data`.
    pub fn score<W: Weights + ?Sized>(&self, weights: &W, data: &EvalData) -> Result<Scores> {
        self.score_as((self.architecture, None), weights, data, &self.encode(data)?)
    }

    /// The source whose tokenizer encodes data.
    fn reader(&self) -> &Source {
        self.models.tokenizer_source().unwrap_or(&self.sources[0])
    }

    /// Makes the questions of all tasks.
    fn encode<'d>(&'d self, data: &'d EvalData) -> Result<Vec<EncodedTask<'d>>> {
        data.tasks.iter().map(|task| task.encode(self.reader(), &data.options)).collect()
    }

    /// Scores a model: its architecture, and the source that it is, if it is one.
    fn score_as<W: Weights + ?Sized>(
        &self,
        (architecture, source): (&Architecture, Option<&Source>),
        weights: &W,
        data: &EvalData,
        tasks: &[EncodedTask<'_>],
    ) -> Result<Scores> {
        let limit = self.models.settings.max_length;
        let one = |(name, d): &(String, Dataset)| {
            let mut score = score(architecture, weights, &d.examples, limit, self.device)?;
            if !d.questions.is_empty() {
                let choices = choose(architecture, weights, &d.questions, limit, self.device)?;
                score.multiple_choice = Some(choices.accuracy);
                score.set_right(choices.outcomes);
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
        let under = self.holds_bf16(source).then_some(self.dtype);
        let task = |task: &EncodedTask<'_>| {
            Ok((
                task.name().to_owned(),
                task.score_held(architecture, weights, self.device, under)?,
            ))
        };
        let tasks = tasks.iter().map(task).collect::<Result<_>>()?;
        let group = |group: &TaskGroup| (group.name().to_owned(), group.score(&tasks));
        let groups = data.groups.iter().map(group).collect();
        let (held_out, unused) = (data.held_out, unused.collect());
        Ok(Scores { data: scores, tasks, groups, held_out, unused })
    }

    /// Returns what to score on: the given files and tasks, or the held-out sets of built-in
    /// sources, or else the session's own data.
    pub fn eval_data(&self, evaluation: &Evaluation) -> Result<EvalData> {
        let files: Vec<&String> =
            evaluation.files.iter().filter(|file| task_of(file).is_none()).collect();
        let named = evaluation.files.iter().filter_map(|file| task_of(file));
        let TaskList { tasks, groups } = TaskList::open_all(named)?;
        let Evaluation { limit, max_length, chat, .. } = *evaluation;
        if tasks.is_empty() && (limit, max_length, chat) != (None, None, false) {
            return refuse(
                "limit, max_length and --chat apply only to tasks, and none is given",
                "name a task: eval task:FILE.yaml limit=100; data files use the chat template and the setting max_length",
            );
        }
        let mut sets =
            if files.is_empty() && !tasks.is_empty() { Vec::new() } else { self.named(&files)? };
        if sets.is_empty() && tasks.is_empty() {
            sets = self.models.data.iter().map(|(name, d)| (name.clone(), (**d).clone())).collect();
        }
        if sets.is_empty() && tasks.is_empty() {
            return Err(Error::NoData { source_name: self.sources[0].name().into() });
        }
        // Training data is never held out, even if it is named explicitly.
        let learnt = |spec: &str| self.models.data.values().any(|d| d.spec == spec);
        let task_files = tasks.iter().flat_map(Task::files).map(|file| file.display().to_string());
        let held_out = !sets.iter().any(|(_, d)| learnt(&d.spec))
            && !task_files.into_iter().any(|file| learnt(&file));
        let options = TaskOptions { questions: limit, max_length, chat };
        Ok(EvalData { sets, tasks, groups, options, held_out })
    }

    /// Returns the given files, or, if there are none, the held-out sets of built-in sources.
    fn named(&self, files: &[&String]) -> Result<Vec<(String, Dataset)>> {
        let reader = self.reader();
        if !files.is_empty() {
            let stem = |f: &&String| {
                Path::new(f)
                    .file_stem()
                    .map_or_else(|| (*f).clone(), |s| s.to_string_lossy().into_owned())
            };
            let unique = files.iter().map(stem).collect::<BTreeSet<_>>().len() == files.len();
            let name = |f: &&String| if unique { stem(f) } else { (*f).clone() };
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
        evaluation: &Evaluation,
    ) -> Result<Scoreboard> {
        let data = self.eval_data(evaluation)?;
        let tasks = self.encode(&data)?;
        let mut rows = Vec::new();
        for source in &self.models.sources {
            let weights = SourceWeights { source, device: self.device, dtype: self.dtype };
            rows.push((
                source.name().to_owned(),
                self.score_as((source.architecture()?, Some(source)), &weights, &data, &tasks)?,
            ));
        }
        let uniform = Columns { bias: BiasStart::Same, ..Columns::default() };
        let average = Merge::new(self.sources, uniform, self.device.clone())?;
        rows.push((
            AVERAGE.into(),
            self.score_as(
                (&average.architecture, None),
                &average.as_weights(self.dtype),
                &data,
                &tasks,
            )?,
        ));
        rows.push((name.into(), self.score_as((self.architecture, None), weights, &data, &tasks)?));
        Ok(Scoreboard { rows })
    }
}
