//! The questions of a task for one source, and the scores of a model on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device};
use minijinja::value::Value;

use super::Task;
use super::encode::Request;
use super::filters::Filtered;
use super::keys::bad;
use super::metrics::Item;
use super::questions::{Gold, Question};
use super::report::{TaskAnswer, TaskMetric, TaskQuestion, TaskScores};
use super::run::{Response, Runner};
use crate::checkpoint::{Architecture, Source};
use crate::data::python_str;
use crate::error::Result;
use crate::eval::sql::{Outcome, judge};
use crate::model::Weights;

/// The questions of a task, encoded for a source.
pub struct EncodedTask<'a> {
    pub(super) task: &'a Task,
    pub(super) source: &'a Source,
    pub(super) max_length: usize,
    pub(super) questions: Vec<Question>,
    pub(super) requests: Vec<Request>,
    /// The chat template of the contexts.
    pub(super) template: Option<Arc<str>>,
    /// The number of questions whose description the template refuses.
    pub(super) without_description: usize,
}

impl EncodedTask<'_> {
    /// Returns the name of the task.
    pub fn name(&self) -> &str {
        self.task.name()
    }

    /// Scores `weights`, whose tokens are those of the source.
    ///
    /// # Errors
    /// A missing weight, out of memory on the device, a pattern that needs too much backtracking,
    /// or [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn score<W: Weights + ?Sized>(
        &self,
        architecture: &Architecture,
        weights: &W,
        device: &Device,
    ) -> Result<TaskScores> {
        self.score_held(architecture, weights, device, None)
    }

    /// Scores as [`EncodedTask::score`] does. With `bf16_under`, the dtype of the computation,
    /// answers are generated with weights that are held as bf16.
    pub(crate) fn score_held<W: Weights + ?Sized>(
        &self,
        architecture: &Architecture,
        weights: &W,
        device: &Device,
        bf16_under: Option<DType>,
    ) -> Result<TaskScores> {
        let Self { task: Task { config, documents, .. }, source, max_length, .. } = *self;
        let runner = Runner { config, source, architecture, max_length, device, bf16_under };
        let responses = runner.run(weights, &self.requests)?;
        let mut answered: Vec<TaskQuestion> = Vec::with_capacity(responses.len());
        let mut items: Vec<Vec<Item>> =
            vec![Vec::new(); config.pipelines.len() * config.metrics.len()];
        for (question, response) in self.questions.iter().zip(&responses) {
            answered.push(self.judge(question, response, &mut items)?);
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
            without_description: self.without_description,
            subtasks: Vec::new(),
            answered: Arc::new(answered),
            keys: Arc::new(serde_json::to_value(keys).unwrap_or_default()),
            template: self.template.clone(),
        })
    }

    /// Returns a question with its answers and their values, which it also adds to `items`: for
    /// each row of filters, those of the metrics in order.
    fn judge(
        &self,
        question: &Question,
        response: &Response,
        items: &mut [Vec<Item>],
    ) -> Result<TaskQuestion> {
        let Task { config, documents, .. } = self.task;
        let mut report = report_question(question, response);
        let place = || format!("document {} of {}", question.index + 1, config.split());
        let refuse =
            |reason: String| bad(&config.file, place(), reason, "simplify its regular expressions");
        let mut columns = items.iter_mut();
        for pipeline in &config.pipelines {
            let filtered = match response {
                Response::Text(text) => Some(pipeline.apply(text, &refuse)?),
                Response::Likelihoods(_) => None,
            };
            let mut outcome = None;
            if let (Some(databases), Some(Filtered::Text(query)), Gold::Texts(references)) =
                (&config.databases, &filtered, &question.gold)
            {
                let database = databases.of(&documents.rows[question.index]);
                let reference = references.first().map_or("", String::as_str);
                let judged = match database {
                    Ok(database) => judge(&database, reference, query)?,
                    Err(reason) => Err(reason),
                };
                let hint = "correct the document or its database";
                outcome = Some(judged.map_err(|reason| bad(&config.file, place(), reason, hint))?);
            }
            for (metric, column) in config.metrics.iter().zip(&mut columns) {
                let judged = (filtered.as_ref(), outcome.as_ref());
                let item = metric.item(question, response, judged, &refuse)?;
                column.push(item);
                report.values.insert(key(metric.name, &pipeline.name), item.value());
            }
            let Some(answer) = report.answers.first_mut() else { continue };
            if let Some(Outcome::Failed(reason)) = outcome {
                answer.failures.insert(pipeline.name.clone(), reason);
            }
            if let Some(filtered) = filtered {
                let texts = match filtered {
                    Filtered::Text(text) => vec![text],
                    Filtered::Tags(tags) => tags,
                };
                answer.filtered.insert(pipeline.name.clone(), texts);
            }
        }
        Ok(report)
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
