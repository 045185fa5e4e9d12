//! Benchmark tasks in the YAML of [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness)
//! (0.4), with its rules, so that scores can be compared with published ones.
//!
//! Every key is followed as there, or refused by name: never ignored. From the bottom up:
//!
//! ```text
//! yaml.rs       a task file, with its includes
//! keys.rs       typed keys, and the refusal of unknown ones
//! output.rs     what a task asks of the model
//! hub_data.rs   the files of a data set on the hub
//! data_files.rs, filters.rs, metric_list.rs, adapters.rs  parts of a task
//! config.rs     a task: all keys
//! ready/        tasks that have only to be named
//! group.rs      several tasks under one name
//! list.rs       tasks and groups by file or name
//! random.rs     Python's random numbers, which draw examples and bootstrap samples
//! fields.rs     the text, target and choices of a document
//! questions.rs  contexts with examples, continuations, right answers
//! encode.rs     questions as tokens
//! run.rs        the model's responses
//! metrics.rs    values of questions, scores and standard errors
//! report.rs     the scores of a task, also as the harness's JSON
//! ```
//!
//! Likelihoods and scores agree with the harness's through transformers, per question
//! (`tests/merging/tasks.rs`).

mod adapters;
mod config;
mod data_files;
mod encode;
mod fields;
mod filters;
mod group;
mod hub_data;
mod keys;
mod list;
mod metric_list;
mod metrics;
mod output;
mod questions;
mod random;
mod ready;
mod report;
mod run;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use minijinja::value::Value;

pub use group::TaskGroup;
pub use list::TaskList;
use ready::is_ready;
pub(crate) use ready::ready_tasks;
pub(crate) use report::harness_json;
pub use report::{TaskAnswer, TaskMetric, TaskQuestion, TaskScores};

use self::config::Config;
use self::encode::{Encoder, Request};
use self::fields::Fields;
use self::filters::Filtered;
use self::keys::bad;
use self::metrics::Item;
use self::questions::{Gold, Question, questions};
use self::run::{Response, run};
use crate::checkpoint::{Architecture, Bytes, Source, map};
use crate::data::{Documents, document_bytes, python_str, with_document_templates};
use crate::error::{Error, Result};
use crate::model::Weights;

/// The prefix of a task among data files: `task:FILE.yaml`.
pub const TASK_PREFIX: &str = "task:";

/// Returns the task that `spec` names among data files: after the prefix, or a name such as `gsm8k`
/// where there is no file of that name.
pub(crate) fn task_of(spec: &str) -> Option<&str> {
    let named = || Some(spec).filter(|name| is_ready(name) && !Path::new(name).exists());
    spec.strip_prefix(TASK_PREFIX).or_else(named)
}

/// A task with its documents.
///
/// ```
/// use dam_prelude::candle_core::{DType, Device};
/// use dam_prelude::{checkpoint::Source, eval::{Task, TaskLimits}, model::SourceWeights};
///
/// let directory = tempfile::tempdir()?;
/// let row = r#"{"q": "What is 12 plus 7?", "choices": ["12 + 7 = 18", "12 + 7 = 19"], "right": 1}"#;
/// std::fs::write(directory.path().join("sums.jsonl"), row)?;
/// let yaml = r#"
/// dataset_path: json
/// dataset_kwargs: {data_files: sums.jsonl}
/// output_type: multiple_choice
/// test_split: train
/// doc_to_text: "<|user|>{{q}}<|end|><|assistant|>"
/// doc_to_choice: choices
/// doc_to_target: right
/// target_delimiter: ""
/// "#;
/// std::fs::write(directory.path().join("sums.yaml"), yaml)?;
///
/// let task = Task::open(directory.path().join("sums.yaml"))?;
/// let source = Source::open("builtin:math")?;
/// let encoded = task.encode(&source, &TaskLimits::default())?;
/// let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
/// let scores = encoded.score(source.architecture()?, &weights, &Device::Cpu)?;
/// assert_eq!(scores.metric("acc").unwrap().value, 1.0);
/// assert_eq!(scores.answered[0].answers[1].text, "12 + 7 = 19");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Task {
    config: Config,
    documents: Documents,
    examples: Vec<Value>,
    files: Vec<PathBuf>,
}

/// Limits of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskLimits {
    /// The maximum number of questions, from the first; `None` for all.
    pub questions: Option<usize>,
    /// The maximum number of tokens that the model receives, as `max_length` of the harness; `None`
    /// for the model's positions. Longer contexts are truncated on the left.
    pub max_length: Option<usize>,
}

impl Task {
    /// Opens a task and its data: a file, or the name of a task that has only to be named, as
    /// `gsm8k`. A data file is looked for from the working directory, as the harness does, and then
    /// beside the task file; a data set of the hub comes from its cache, or is downloaded into it.
    ///
    /// # Errors
    /// A key that cannot be followed, by name; data that is missing or cannot be read; a group.
    pub fn open(task: impl AsRef<Path>) -> Result<Self> {
        let task = task.as_ref();
        let mut list = TaskList::open(&task.to_string_lossy())?;
        match (list.tasks.pop(), list.groups.is_empty()) {
            (Some(one), true) if list.tasks.is_empty() => Ok(one),
            _ => Err(bad(task, "its kind", "it is a group of tasks", "use TaskList::open")),
        }
    }

    /// Opens the task with the keys `all` of `file`, and its data.
    fn new(file: &Path, all: Vec<(String, Value)>) -> Result<Self> {
        let mut config = Config::new(file, all)?;
        if let Some(hub) = &config.data.hub {
            let examples = config.examples_from().filter(|_| config.shots > 0);
            let splits: BTreeSet<&str> = examples.into_iter().chain([config.split()]).collect();
            let splits: Vec<&str> = splits.into_iter().collect();
            (config.data.format, config.data.splits) = hub.files(file, &splits)?;
        }
        let mut files = Vec::new();
        let mut read = |split: &str| {
            let mut opened: Vec<(PathBuf, Bytes)> = Vec::new();
            for name in config.data.splits.get(split).into_iter().flatten() {
                let path = find(&config, name)?;
                let bytes = map(&path)?;
                files.push(path.clone());
                opened.push((path, bytes));
            }
            let each = opened.iter().map(|(path, bytes)| (path.as_path(), bytes));
            adapted(&config, split, Documents::read(each, config.data.format)?)
        };
        let documents = read(config.split())?;
        let examples = match (config.shots, config.examples_from()) {
            (0, _) => Vec::new(),
            (_, None) => config.example_documents.clone().unwrap_or_default(),
            (_, Some(split)) if split == config.split() => documents.rows.clone(),
            (_, Some(split)) => read(split)?.rows,
        };
        Ok(Self { config, documents, examples, files })
    }

    /// Returns the name of the task.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns the file that describes it, or its name if it has only one.
    fn file(&self) -> &Path {
        &self.config.file
    }

    /// Whether `other` has the same keys and data.
    fn is_same(&self, other: &Self) -> bool {
        self.config.keys == other.config.keys && self.files == other.files
    }

    /// Returns its data files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Makes the questions and encodes them for `source`.
    ///
    /// # Errors
    /// A template that does not render or a field that does not fit, with its document; a text that
    /// cannot be encoded; or a length that leaves no room for an answer.
    pub fn encode<'a>(
        &'a self,
        source: &'a Source,
        limits: &TaskLimits,
    ) -> Result<EncodedTask<'a>> {
        let Self { config, documents, examples, .. } = self;
        let positions = source.architecture()?.max_positions;
        let max_length = limits.max_length.unwrap_or(positions).min(positions);
        let encoder = Encoder::new(config, source, max_length)?;
        let bytes = documents.rows.iter().chain(examples).map(document_bytes).max().unwrap_or(0);
        let templates = fields::templates(config, &documents.columns);
        let count = limits.questions.unwrap_or(usize::MAX);
        let made = with_document_templates(&templates, bytes, |templates| {
            let fields = Fields { config, columns: &documents.columns, templates };
            questions(&fields, &documents.rows, examples, count)
        });
        let hint = "correct the template; templates are Jinja, with the columns as variables";
        let refused = |(template, reason): (String, String)| {
            bad(&config.file, format!("the template `{template}`"), reason, hint)
        };
        let questions = made.map_err(refused)??;
        let requests =
            questions.iter().map(|question| encoder.request(question)).collect::<Result<_>>()?;
        Ok(EncodedTask { task: self, source, max_length, questions, requests })
    }
}

/// Adds the columns that the task's adapter makes of each document.
fn adapted(config: &Config, split: &str, documents: Documents) -> Result<Documents> {
    let Some(adapter) = config.adapter else { return Ok(documents) };
    let Documents { mut columns, mut rows } = documents;
    for (i, row) in rows.iter_mut().enumerate() {
        let made = adapter(row).ok_or_else(|| {
            let place = format!("document {} of {split}", i + 1);
            let hint = "use the data set that the task is made for";
            bad(&config.file, place, "it lacks columns that `process_docs` needs", hint)
        })?;
        for (name, _) in &made {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        let mut all = keys::pairs(row);
        all.retain(|(name, _)| !made.iter().any(|(own, _)| own == name));
        all.extend(made);
        *row = Value::from_pairs(all);
    }
    Ok(Documents { columns, rows })
}

/// The path of the data file `name`.
fn find(config: &Config, name: &str) -> Result<PathBuf> {
    let here = std::path::absolute(name).map_err(|e| Error::io("read", name, e))?;
    let beside = config.file.parent().unwrap_or(Path::new("")).join(name);
    let path = if here.exists() || !beside.exists() { here } else { beside };
    std::path::absolute(&path).map_err(|e| Error::io("read", path, e))
}

/// The questions of a task, encoded for a source.
pub struct EncodedTask<'a> {
    task: &'a Task,
    source: &'a Source,
    max_length: usize,
    questions: Vec<Question>,
    requests: Vec<Request>,
}

impl EncodedTask<'_> {
    /// Returns the name of the task.
    pub fn name(&self) -> &str {
        self.task.name()
    }

    /// Scores `weights`, whose tokens are those of the source.
    ///
    /// # Errors
    /// A missing weight, out of memory on the device, a pattern that needs too much backtracking, or
    /// [`Error::Interrupted`].
    pub fn score<W: Weights + ?Sized>(
        &self,
        architecture: &Architecture,
        weights: &W,
        device: &Device,
    ) -> Result<TaskScores> {
        let Self { task: Task { config, documents, .. }, source, requests, .. } = self;
        let responses =
            run(config, source, architecture, weights, requests, self.max_length, device)?;
        let mut answered: Vec<TaskQuestion> = Vec::with_capacity(responses.len());
        let mut items: Vec<Vec<Item>> =
            vec![Vec::new(); config.pipelines.len() * config.metrics.len()];
        for (question, response) in self.questions.iter().zip(&responses) {
            let mut report = report_question(question, response);
            let place = format!("document {} of {}", question.index + 1, config.split());
            let hint = "simplify its regular expressions";
            let refuse = |reason: String| bad(&config.file, place.clone(), reason, hint);
            let mut columns = items.iter_mut();
            for pipeline in &config.pipelines {
                let filtered = match response {
                    Response::Text(text) => Some(pipeline.apply(text, &refuse)?),
                    Response::Likelihoods(_) => None,
                };
                for (metric, column) in config.metrics.iter().zip(&mut columns) {
                    let item = metric.item(question, response, filtered.as_ref(), &refuse)?;
                    column.push(item);
                    report.values.insert(key(metric.name, &pipeline.name), item.value());
                }
                if let (Some(answer), Some(filtered)) = (report.answers.first_mut(), filtered) {
                    let texts = match filtered {
                        Filtered::Text(text) => vec![text],
                        Filtered::Tags(tags) => tags,
                    };
                    answer.filtered.insert(pipeline.name.clone(), texts);
                }
            }
            answered.push(report);
        }
        let mut columns = items.iter();
        let mut metrics = Vec::new();
        for pipeline in &config.pipelines {
            for (metric, column) in config.metrics.iter().zip(&mut columns) {
                let (value, stderr) = metric.score(column)?;
                metrics.push(TaskMetric {
                    name: metric.name.into(),
                    filter: pipeline.name.clone(),
                    value,
                    stderr,
                    higher_is_better: metric.higher_is_better,
                    is_share: metric.is_share(),
                });
            }
        }
        let lacks = |question: &&Question| match &question.gold {
            Gold::Indices(indices) => {
                let count = question.choices.len() as i64;
                indices.iter().all(|index| !(0..count).contains(index))
            }
            _ => false,
        };
        let keys: BTreeMap<&String, &Value> = config.keys.iter().map(|(k, v)| (k, v)).collect();
        Ok(TaskScores {
            name: config.name.clone(),
            metrics,
            questions: answered.len(),
            documents: documents.rows.len(),
            shots: config.shots,
            without_target: self.questions.iter().filter(lacks).count(),
            subtasks: Vec::new(),
            answered: Arc::new(answered),
            keys: Arc::new(serde_json::to_value(keys).unwrap_or_default()),
        })
    }
}

fn key(metric: &str, filter: &str) -> String {
    format!("{metric},{filter}")
}

/// A question with the model's answers, without the values of metrics.
fn report_question(question: &Question, response: &Response) -> TaskQuestion {
    let count = question.continuations.len();
    let (answers, rest) = match response {
        Response::Text(text) => {
            (vec![TaskAnswer { text: text.clone(), ..TaskAnswer::default() }], Vec::new())
        }
        Response::Likelihoods(all) if question.contexts.is_empty() || count == 0 => {
            (Vec::new(), all.iter().map(|(x, ..)| *x).collect())
        }
        // The windows of a whole text.
        Response::Likelihoods(all) if question.gold == Gold::Continuation && all.len() != 1 => {
            let text = question.continuations[0].clone();
            let tokens = Some(all.iter().map(|(_, tokens, _)| tokens).sum());
            let log_likelihood = Some(all.iter().map(|(x, ..)| x).sum());
            (vec![TaskAnswer { text, tokens, log_likelihood, ..TaskAnswer::default() }], Vec::new())
        }
        Response::Likelihoods(all) => {
            let one = |(text, (x, tokens, is_greedy)): (&String, &(f64, usize, bool))| TaskAnswer {
                text: text.clone(),
                tokens: Some(*tokens),
                log_likelihood: Some(*x),
                is_greedy: Some(*is_greedy),
                ..TaskAnswer::default()
            };
            let answers = question.continuations.iter().zip(all).map(one).collect();
            (answers, all.iter().skip(count).map(|(x, ..)| *x).collect())
        }
    };
    TaskQuestion {
        document: question.index,
        contexts: question.contexts.clone(),
        target: python_str(&question.target),
        answers,
        without_context: rest,
        values: BTreeMap::new(),
    }
}
