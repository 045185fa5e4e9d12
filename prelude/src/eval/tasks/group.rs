//! Groups: tasks under one name, with a mean score.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::Value;

use super::keys::Keys;
use super::report::{TaskMetric, TaskScores};
use crate::error::Result;

/// A mean over the tasks of a group.
#[derive(Clone, Debug, PartialEq)]
struct Mean {
    metric: String,
    /// The names of the filters whose scores are averaged, each on its own.
    filters: Vec<String>,
    /// Whether tasks count by their numbers of questions.
    by_size: bool,
}

/// A group of tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskGroup {
    name: String,
    /// The names of its tasks, those of groups within it included.
    pub(super) tasks: Vec<String>,
    means: Vec<Mean>,
}

/// What a group's file says: its name, its tasks as written there, and its means.
pub(super) struct GroupFile {
    pub name: String,
    pub entries: Vec<Value>,
    means: Vec<Mean>,
}

impl GroupFile {
    /// Whether `keys` are those of a group.
    pub fn is(keys: &[(String, Value)]) -> bool {
        keys.iter().any(|(key, value)| key == "group" && !value.is_none())
    }

    /// Reads the keys `all` of a group in `file`.
    ///
    /// # Errors
    /// A key that cannot be followed.
    pub fn new(file: &Path, all: Vec<(String, Value)>) -> Result<Self> {
        let mut keys = Keys::new(file, all);
        let name = keys.required("group")?;
        keys.skip(&["group_alias", "metadata"]);
        let entries = keys.list("task").unwrap_or_default();
        if entries.is_empty() {
            let hint = "list the tasks of the group: names, files beside this one, or objects";
            return Err(keys.bad("task", "the group has no tasks", hint));
        }
        let listed = keys.list("aggregate_metric_list").unwrap_or_default();
        let mean = |(i, value): (usize, &Value)| {
            let place = format!("aggregate_metric_list[{i}]");
            let mut inside = Keys::within(file, &place, value)?;
            let metric = inside.required("metric")?;
            let filters = inside.texts("filter_list")?.unwrap_or_else(|| vec!["none".into()]);
            let by_size = inside.flag("weight_by_size")?.unwrap_or(true);
            if inside.text("aggregation")?.is_some_and(|own| own != "mean") {
                let reason = "scores of tasks are aggregated by their mean";
                return Err(inside.bad("aggregation", reason, "write mean"));
            }
            inside.finish()?;
            Ok(Mean { metric, filters, by_size })
        };
        let means = listed.iter().enumerate().map(mean).collect::<Result<_>>()?;
        keys.finish()?;
        Ok(Self { name, entries, means })
    }

    /// Returns the group of `tasks`.
    pub fn of(self, tasks: Vec<String>) -> TaskGroup {
        TaskGroup { name: self.name, tasks, means: self.means }
    }
}

impl TaskGroup {
    /// Returns a group whose accuracy is the mean of its tasks', weighted by their sizes.
    pub(super) fn by_accuracy(name: &str, tasks: Vec<String>) -> Self {
        let mean = Mean { metric: "acc".into(), filters: vec!["none".into()], by_size: true };
        Self { name: name.into(), tasks, means: vec![mean] }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the scores of the group from those of all tasks, by name. The standard error of a
    /// mean weighted by sizes is that of the pooled variance, else the root of the sum of squares
    /// over the number of tasks, as in the harness.
    pub(crate) fn score(&self, scores: &BTreeMap<String, TaskScores>) -> TaskScores {
        let own = || self.tasks.iter().filter_map(|name| scores.get(name));
        let mut metrics = Vec::new();
        for Mean { metric, filters, by_size } in &self.means {
            for filter in filters {
                let key = format!("{metric},{filter}");
                let of = |task| Some((task, TaskScores::metric(task, &key)?));
                let found: Vec<(&TaskScores, &TaskMetric)> = own().filter_map(of).collect();
                let Some((_, first)) = found.first() else { continue };
                let size = |task: &TaskScores| task.questions as f64;
                let weight = |task: &TaskScores| if *by_size { size(task) } else { 1.0 };
                let all: f64 = found.iter().map(|(task, _)| weight(task)).sum();
                let sum: f64 = found.iter().map(|(task, m)| weight(task) * m.value).sum();
                let squares = |of: fn(f64) -> f64| -> Option<f64> {
                    found.iter().map(|(task, m)| Some(of(size(task)) * m.stderr?.powi(2))).sum()
                };
                let stderr = if *by_size {
                    squares(|n| (n - 1.0) * n)
                        .map(|sum| (sum / (all - found.len() as f64) / all).sqrt())
                } else {
                    squares(|_| 1.0).map(|sum| sum.sqrt() / found.len() as f64)
                };
                metrics.push(TaskMetric {
                    value: sum / all,
                    stderr: stderr.filter(|stderr| stderr.is_finite()),
                    ..(*first).clone()
                });
            }
        }
        TaskScores {
            name: self.name.clone(),
            metrics,
            questions: own().map(|task| task.questions).sum(),
            documents: own().map(|task| task.documents).sum(),
            shots: own().map(|task| task.shots).max().unwrap_or(0),
            subtasks: self.tasks.clone(),
            ..TaskScores::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `aggregate_subtask_metrics`, `pooled_sample_stderr` and `unweighted_mean_stderr` of
    /// lm-evaluation-harness 0.4.13 for these scores.
    #[test]
    fn means_and_their_errors_are_the_harness_s() {
        let scores = [("a", 0.5, 0.1, 20), ("b", 0.8, 0.05, 60)].map(|(name, value, error, n)| {
            let metric = TaskMetric {
                name: "acc".into(),
                filter: "none".into(),
                value,
                stderr: Some(error),
                higher_is_better: true,
                is_share: true,
            };
            let scores =
                TaskScores { metrics: vec![metric], questions: n, ..TaskScores::default() };
            (name.to_owned(), scores)
        });
        let scores = BTreeMap::from(scores);
        let mut group = TaskGroup::by_accuracy("g", vec!["a".into(), "b".into()]);
        for (by_size, value, error) in
            [(true, 0.725, 0.045_024_921_873_819_95), (false, 0.65, 0.055_901_699_437_494_75)]
        {
            group.means[0].by_size = by_size;
            let found = group.score(&scores);
            let metric = found.metric("acc").unwrap();
            assert!((metric.value - value).abs() < 1e-12, "{}", metric.value);
            assert!((metric.stderr.unwrap() - error).abs() < 1e-12, "{:?}", metric.stderr);
        }
    }
}
