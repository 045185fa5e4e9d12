//! The scores of a task: its metrics with standard errors, and every question with its answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A metric over all questions of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskMetric {
    /// Its name, as `acc`.
    pub name: String,
    /// The name of the filters that its answers went through; `none` if there are none.
    pub filter: String,
    /// The score: a share from 0 to 1, a perplexity, or bits. Infinite if it is too large.
    #[serde(deserialize_with = "or_infinite")]
    pub value: f64,
    /// Its standard error; `None` for fewer than two questions and for perplexities of words and
    /// bytes.
    pub stderr: Option<f64>,
    /// Whether a higher score is better.
    pub higher_is_better: bool,
    /// Whether it is an accuracy, from 0 to 1.
    pub is_share: bool,
}

/// JSON has no infinite numbers; they are written as null.
fn or_infinite<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::INFINITY))
}

impl TaskMetric {
    /// Returns the name with its filter, as in the harness's results: `acc,none`.
    pub fn key(&self) -> String {
        format!("{},{}", self.name, self.filter)
    }
}

/// An answer of a model: a choice, a continuation or a whole text with its likelihood, or a
/// generated text.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TaskAnswer {
    /// The text.
    pub text: String,
    /// The number of its tokens, if its likelihood was computed.
    pub tokens: Option<usize>,
    /// Its log-likelihood in nats.
    pub log_likelihood: Option<f64>,
    /// Whether greedy decoding would give this text.
    pub is_greedy: Option<bool>,
    /// A generated text after each named row of filters.
    pub filtered: BTreeMap<String, Vec<String>>,
    /// Why a generated query does not run, after the rows of filters that it does not run after.
    pub failures: BTreeMap<String, String>,
}

/// A question of a task, and what a model answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskQuestion {
    /// The index of its document in the split, from 0.
    pub document: usize,
    /// The context with its examples, or one for each choice.
    pub contexts: Vec<String>,
    /// The target: a text, or the index of a choice.
    pub target: String,
    /// The choices, the continuation or the generated answer.
    pub answers: Vec<TaskAnswer>,
    /// The likelihoods of the choices without a context, if a metric needs them.
    pub without_context: Vec<f64>,
    /// The value of each metric, by its key (`acc,none`); for perplexities, a log-likelihood in
    /// nats.
    pub values: BTreeMap<String, f64>,
}

impl TaskQuestion {
    /// Returns whether the answer is right by the metric `key`; `None` if there is no such metric.
    pub fn is_right(&self, key: &str) -> Option<bool> {
        self.values.get(key).map(|value| *value > 0.5)
    }
}

/// The scores of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// The name of the task.
    pub name: String,
    /// Its metrics: for each row of filters, those of the task in order.
    pub metrics: Vec<TaskMetric>,
    /// The number of questions.
    pub questions: usize,
    /// The number of documents in the split, of which a limit takes the first.
    pub documents: usize,
    /// The number of examples before each question.
    pub shots: usize,
    /// The number of questions whose target is none of their choices, and which count as wrong.
    pub without_target: usize,
    /// The number of questions whose description is missing because the chat template refuses
    /// system messages.
    #[serde(default)]
    pub without_description: usize,
    /// The names of its tasks, if it is a group; their questions have the answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subtasks: Vec<String>,
    /// The questions, in order; not saved with a session.
    #[serde(skip)]
    pub answered: Arc<Vec<TaskQuestion>>,
    /// The keys of the task's file.
    #[serde(skip)]
    pub(crate) keys: Arc<Value>,
    /// The chat template that made the contexts.
    #[serde(skip)]
    pub(crate) template: Option<Arc<str>>,
}

impl TaskScores {
    /// Returns the metric `key`: `acc`, or with its filter `exact_match,strict-match`.
    pub fn metric(&self, key: &str) -> Option<&TaskMetric> {
        self.metrics.iter().find(|metric| metric.name == key || metric.key() == key)
    }

    /// Returns the first metric that is an accuracy.
    pub fn accuracy(&self) -> Option<&TaskMetric> {
        self.metrics.iter().find(|metric| metric.is_share)
    }

    /// Returns the metric that stands for the task: [`TaskScores::accuracy`], or else the first.
    pub fn main(&self) -> Option<&TaskMetric> {
        self.accuracy().or(self.metrics.first())
    }

    /// Returns the value of each question by the metric `key`, in order.
    pub fn values(&self, key: &str) -> Vec<f64> {
        self.answered.iter().filter_map(|question| question.values.get(key).copied()).collect()
    }
}

/// Returns the results of `tasks` in the form of lm-evaluation-harness's `results.json`, for
/// `model`, and every question with its answers.
pub(crate) fn harness_json<'a>(
    tasks: impl IntoIterator<Item = &'a TaskScores>,
    model: &str,
) -> Value {
    let parts = [
        "results",
        "groups",
        "group_subtasks",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
    ];
    let mut maps: BTreeMap<&str, Map<String, Value>> =
        parts.into_iter().map(|part| (part, Map::new())).collect();
    let mut answered = Map::new();
    let mut template = None;
    for task in tasks {
        let keys = &*task.keys;
        template = template.or(task.template.as_deref());
        let mut results = json!({
            "name": task.name, "alias": keys.get("task_alias").unwrap_or(&json!(task.name)),
            "sample_len": task.questions,
        });
        let mut better = Map::new();
        for metric in &task.metrics {
            let TaskMetric { name, filter, value, stderr, higher_is_better, .. } = metric;
            results[format!("{name},{filter}")] = json!(value);
            let stderr = stderr.map_or(json!("N/A"), |stderr| json!(stderr));
            results[format!("{name}_stderr,{filter}")] = stderr;
            better.insert(name.clone(), json!(higher_is_better));
        }
        let version =
            keys.get("metadata").and_then(|m| m.get("version")).unwrap_or(&json!("Yaml")).clone();
        let is_group = !task.subtasks.is_empty();
        let of_task = |value: Value| Some(value).filter(|_| !is_group);
        for (part, value) in parts.into_iter().zip([
            Some(results.clone()),
            Some(results).filter(|_| is_group),
            Some(json!(task.subtasks)),
            of_task(keys.clone()),
            Some(version),
            of_task(json!(task.shots)),
            Some(Value::Object(better)),
            of_task(json!({"original": task.documents, "effective": task.questions})),
        ]) {
            if let (Some(map), Some(value)) = (maps.get_mut(part), value) {
                map.insert(task.name.clone(), value);
            }
        }
        if !is_group {
            answered.insert(task.name.clone(), json!(sample_json(task)));
        }
    }
    let mut all: Map<String, Value> =
        maps.into_iter().map(|(part, map)| (part.to_owned(), Value::Object(map))).collect();
    all.insert("config".into(), json!({"model": "dam", "model_args": model, "fewshot_seed": 1234}));
    all.insert("chat_template".into(), json!(template));
    all.insert("fewshot_as_multiturn".into(), json!(template.is_some()));
    all.insert("model_source".into(), json!("dam"));
    all.insert("model_name".into(), json!(model));
    all.insert("samples".into(), Value::Object(answered));
    Value::Object(all)
}

/// The questions as the harness logs them: one per row of filters.
fn sample_json(task: &TaskScores) -> Vec<Value> {
    let mut filters: Vec<&str> = Vec::new();
    for metric in &task.metrics {
        if !filters.contains(&metric.filter.as_str()) {
            filters.push(&metric.filter);
        }
    }
    let mut all = Vec::new();
    for filter in filters {
        let own = || task.metrics.iter().filter(|metric| metric.filter == filter);
        for question in task.answered.iter() {
            let contexts = question.contexts.iter().cycle();
            let answer = |answer: &TaskAnswer| match (answer.log_likelihood, answer.is_greedy) {
                (Some(x), Some(is_greedy)) => json!([x, is_greedy]),
                (Some(x), None) => json!(x),
                _ => json!(answer.text),
            };
            let filtered = |one: &TaskAnswer| match one.filtered.get(filter).map(Vec::as_slice) {
                Some([text]) => json!(text),
                Some(tags) => json!(tags),
                None => answer(one),
            };
            let argument = |(context, one): (&String, &TaskAnswer)| match one.log_likelihood {
                Some(_) => json!([context, one.text]),
                None => json!([context]),
            };
            let mut sample = json!({
                "doc_id": question.document, "target": question.target, "filter": filter,
                "arguments": contexts.zip(&question.answers).map(argument).collect::<Vec<_>>(),
                "resps": question.answers.iter().map(|one| json!([answer(one)])).collect::<Vec<_>>(),
                "filtered_resps": question.answers.iter().map(filtered).collect::<Vec<_>>(),
                "metrics": own().map(|metric| &metric.name).collect::<Vec<_>>(),
            });
            for metric in own() {
                sample[&metric.name] = json!(question.values.get(&metric.key()));
            }
            all.push(sample);
        }
    }
    all
}
