//! Benchmark tasks in the YAML of
//! [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness) (0.4), with its
//! rules, so that scores can be compared with published ones.
//!
//! Every key is followed as there, or refused by name: never ignored. From the bottom up:
//!
//! ```text
//! yaml.rs       a task file, with its includes
//! keys.rs       typed keys, and the refusal of unknown ones
//! output.rs     what a task asks of the model
//! documents.rs  data files, and columns that are added to documents
//! hub_data.rs   the files of a data set on the hub
//! data_files.rs, databases.rs, filters.rs, metric_list.rs, adapters.rs  parts of a task
//! config.rs     a task: all keys
//! ready/        predefined tasks
//! group.rs      several tasks under one name
//! list.rs       tasks and groups by file or name
//! random.rs     Python's random numbers, which draw examples and bootstrap samples
//! fields.rs     the text, target and choices of a document
//! turn.rs       a turn of a conversation
//! questions.rs  turns with examples, continuations, right answers
//! contexts.rs   contexts as plain text or through a chat template
//! encode.rs     questions as tokens
//! run.rs        the model's responses
//! encoded.rs    the questions of a task for a source, and their scores
//! metrics.rs    values of questions, scores and standard errors
//! report.rs     the scores of a task, also as the harness's JSON
//! ```
//!
//! Likelihoods and scores agree with the harness's through transformers, per question
//! (`tests/merging/tasks.rs`).

mod adapters;
mod config;
mod contexts;
mod data_files;
mod databases;
mod documents;
mod encode;
mod encoded;
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
mod turn;
mod yaml;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::value::Value;

pub use encoded::EncodedTask;
pub use group::TaskGroup;
pub use list::TaskList;
use ready::is_ready;
pub(crate) use ready::{SPIDER_PREFIX, ready_tasks};
pub(crate) use report::harness_json;
pub use report::{TaskAnswer, TaskMetric, TaskQuestion, TaskScores};

use self::config::Config;
use self::documents::{find, with_columns};
use self::encode::Encoder;
use self::fields::Fields;
use self::keys::bad;
use self::questions::questions;
use crate::checkpoint::{BUILTIN_PREFIX, Bytes, Source, builtin_documents, map};
use crate::data::{Documents, document_bytes, with_document_templates};
use crate::error::Result;

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
/// use dam_prelude::{checkpoint::Source, eval::{Task, TaskOptions}, model::SourceWeights};
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
/// let encoded = task.encode(&source, &TaskOptions::default())?;
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

/// How a task is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOptions {
    /// The maximum number of questions, from the first; `None` for all.
    pub questions: Option<usize>,
    /// The maximum number of tokens that the model receives, as `max_length` of the harness; `None`
    /// for the model's positions. Longer contexts are truncated on the left.
    pub max_length: Option<usize>,
    /// Whether contexts go through the chat template of the source, as `--apply_chat_template` of
    /// the harness does: the description is the system message, and examples are earlier turns.
    pub chat: bool,
}

impl Task {
    /// Opens a task and its data: a file, or the name of a predefined task, as
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
                let (path, bytes) = match name.strip_prefix(BUILTIN_PREFIX) {
                    Some(builtin) => (PathBuf::from(name), builtin_documents(builtin)?),
                    None => {
                        let path = find(&config.file, name)?;
                        let bytes = map(&path)?;
                        (path, bytes)
                    }
                };
                files.push(path.clone());
                opened.push((path, bytes));
            }
            let each = opened.iter().map(|(path, bytes)| (path.as_path(), bytes));
            let documents = Documents::read(each, config.data.format)?;
            with_schemas(&config, split, adapted(&config, split, documents)?)
        };
        let documents = read(config.split())?;
        let examples = match (config.shots, config.examples_from()) {
            (0, _) => Vec::new(),
            (_, None) => {
                let rows = config.example_documents.clone().unwrap_or_default();
                let columns = rows.iter().flat_map(keys::pairs).map(|(name, _)| name).collect();
                let place = "fewshot_config.samples";
                with_schemas(&config, place, Documents { columns, rows })?.rows
            }
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
        options: &TaskOptions,
    ) -> Result<EncodedTask<'a>> {
        let Self { config, documents, examples, .. } = self;
        let positions = source.architecture()?.max_positions;
        let max_length = options.max_length.unwrap_or(positions).min(positions);
        let encoder = Encoder::new(config, source, max_length)?;
        let bytes = documents.rows.iter().chain(examples).map(document_bytes).max().unwrap_or(0);
        let templates = fields::templates(config, &documents.columns);
        let made = with_document_templates(&templates, bytes, |templates| {
            let fields = Fields { config, columns: &documents.columns, templates };
            questions(&fields, &documents.rows, examples, options)
        });
        let hint = "correct the template; templates are Jinja, with the columns as variables";
        let refused = |(template, reason): (String, String)| {
            bad(&config.file, format!("the template `{template}`"), reason, hint)
        };
        let mut questions = made.map_err(refused)??;
        let (mut template, mut without_description) = (None, 0);
        if options.chat {
            without_description = contexts::render(config, source, &mut questions)?;
            template = source.chat().template().ok().flatten().map(Arc::from);
        } else {
            contexts::join(&mut questions);
        }
        let requests =
            questions.iter().map(|question| encoder.request(question)).collect::<Result<_>>()?;
        Ok(EncodedTask {
            task: self,
            source,
            max_length,
            questions,
            requests,
            template,
            without_description,
        })
    }
}

/// Adds the schemas of the task's databases.
fn with_schemas(config: &Config, split: &str, documents: Documents) -> Result<Documents> {
    match &config.databases {
        Some(databases) => databases.with_schemas(&config.file, split, documents),
        None => Ok(documents),
    }
}

/// Adds the columns that the task's adapter makes of each document.
fn adapted(config: &Config, split: &str, documents: Documents) -> Result<Documents> {
    let Some(adapter) = config.adapter else { return Ok(documents) };
    with_columns(documents, |i, row| {
        adapter(row).ok_or_else(|| {
            let place = format!("document {} of {split}", i + 1);
            let hint = "use the data set that the task is made for";
            bad(&config.file, place, "it lacks columns that `process_docs` needs", hint)
        })
    })
}
