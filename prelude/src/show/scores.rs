//! The results of `eval`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::numbers::{count, number, percent, perplexity, with_error};
use super::table::Table;
use crate::checkpoint::{BASE, Written, new_file};
use crate::error::{Error, Result, refuse};
use crate::eval::{Paired, Score, TaskMetric, TaskQuestion, TaskScores, harness_json, paired};

shown_as_table!(Scores);
shown_with_picture!(Scoreboard);

/// The result of `eval`: a score for each data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The scores by name of the data set.
    pub data: BTreeMap<String, Score>,
    /// The scores of benchmark tasks by name.
    #[serde(default)]
    pub tasks: BTreeMap<String, TaskScores>,
    /// The mean scores of groups of tasks by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, TaskScores>,
    /// Whether the data is disjoint from the training data.
    pub held_out: bool,
    /// Columns of the data files that were not used, by name of the data set.
    #[serde(default)]
    pub unused: BTreeMap<String, Vec<String>>,
}

/// Returns the note that `columns` of the data `name` were not used; only the first few are named.
pub(crate) fn unused_columns(name: &str, columns: &[String]) -> String {
    const NAMED: usize = 8;
    let named: Vec<String> =
        columns.iter().take(NAMED).map(|column| format!("`{column}`")).collect();
    let more = if columns.len() > NAMED {
        format!(" and {} more", columns.len() - NAMED)
    } else {
        String::new()
    };
    format!("unused columns of {name}: {}{more}", named.join(", "))
}

impl Scores {
    /// Returns notes for the user.
    pub(super) fn notes(&self) -> Vec<String> {
        let learnt = (!self.held_out).then(|| {
            "these are scores on the training data: pass held-out files for a fair test".into()
        });
        let lacking = self.tasks.values().filter(|task| task.without_target > 0).map(|task| {
            format!(
                "{}: the target of {} questions is none of their choices; they count as wrong",
                task.name, task.without_target
            )
        });
        let silent = self.tasks.values().filter(|task| task.without_description > 0).map(|task| {
            format!(
                "{}: the chat template refuses system messages; {} questions have no description",
                task.name, task.without_description
            )
        });
        let limited = self.tasks.values().filter(|task| task.questions < task.documents);
        let limited = limited.map(|task| {
            format!("{}: the first {} of {} questions", task.name, task.questions, task.documents)
        });
        learnt
            .into_iter()
            .chain(self.unused.iter().map(|(name, columns)| unused_columns(name, columns)))
            .chain(limited)
            .chain(lacking)
            .chain(silent)
            .collect()
    }

    /// Returns every question of the tasks with its answers, and the name of its task. Empty after
    /// a session was opened from a file, which has the scores only.
    pub fn questions(&self) -> impl Iterator<Item = (&str, &TaskQuestion)> {
        self.tasks.iter().flat_map(|(name, task)| {
            task.answered.iter().map(move |question| (name.as_str(), question))
        })
    }

    /// Writes the scores of the tasks to a new file in the form of lm-evaluation-harness's
    /// `results.json`, with every question and its answers under `samples`. `model` names the
    /// model.
    ///
    /// # Errors
    /// There is no task, the file exists, the disk is full, or the path is not writable.
    pub fn write_results(&self, file: impl AsRef<Path>, model: &str) -> Result<Written> {
        if self.tasks.is_empty() {
            return refuse(
                "only tasks have results in the form of lm-evaluation-harness",
                "name a task: eval task:FILE.yaml results=results.json",
            );
        }
        let file = file.as_ref();
        let json = |e: serde_json::Error| Error::Json { file: file.into(), reason: e.to_string() };
        let results = harness_json(self.tasks.values().chain(self.groups.values()), model);
        let text = serde_json::to_string_pretty(&results).map_err(json)?;
        new_file(file, text.as_bytes())
    }

    /// Returns the mean loss over data sets, in nats; NaN without data sets.
    pub fn mean_loss(&self) -> f64 {
        self.data.values().map(|s| s.loss).sum::<f64>() / self.data.len() as f64
    }

    /// Returns the accuracies of data sets and tasks with questions, each with its standard error.
    fn accuracies(&self) -> Vec<(f64, Option<f64>)> {
        let data = self.data.values().filter_map(|score| Some((score.accuracy()?, score.stderr)));
        let tasks = self.headline().filter_map(TaskScores::accuracy);
        data.chain(tasks.map(|metric| (metric.value, metric.stderr))).collect()
    }

    /// The scores that stand for all tasks: those of groups that are in no other, and of tasks in
    /// no group.
    pub(super) fn headline(&self) -> impl Iterator<Item = &TaskScores> {
        let all = || self.groups.values().chain(self.tasks.values());
        let within = |inner: &TaskScores, outer: &TaskScores| match inner.subtasks.as_slice() {
            [] => outer.subtasks.contains(&inner.name),
            own => {
                own.len() < outer.subtasks.len()
                    && own.iter().all(|task| outer.subtasks.contains(task))
            }
        };
        all().filter(move |task| !self.groups.values().any(|group| within(task, group)))
    }

    /// Returns the scores of the task or group `name`.
    pub fn task(&self, name: &str) -> Option<&TaskScores> {
        self.tasks.get(name).or_else(|| self.groups.get(name))
    }

    /// Returns the mean accuracy over data sets and tasks with questions, 0 to 1; a group of tasks
    /// counts as one.
    pub fn mean_accuracy(&self) -> Option<f64> {
        let all = self.accuracies();
        (!all.is_empty()).then(|| all.iter().map(|(x, _)| x).sum::<f64>() / all.len() as f64)
    }

    /// Returns the standard error of [`Scores::mean_accuracy`]: the root of the sum of the squared
    /// standard errors over the number of sets.
    pub fn mean_stderr(&self) -> Option<f64> {
        let all = self.accuracies();
        let squares: Option<f64> = all.iter().map(|(_, stderr)| stderr.map(|x| x * x)).sum();
        squares.filter(|_| !all.is_empty()).map(|sum| sum.sqrt() / all.len() as f64)
    }

    /// Compares the accuracy of these scores (the first) with that of `other` (the second) on all
    /// questions of the data sets and tasks that both have. `None` without such questions, and
    /// after a session was opened from a file, which has the scores only.
    ///
    /// ```
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let board = dam.scoreboard(&["builtin:math-heldout".into()])?;
    /// let (math, average) = (board.row("math").unwrap(), board.row("average").unwrap());
    /// let paired = math.paired(average).unwrap();
    /// assert!(paired.questions == 200 && paired.first > paired.second && paired.p_value < 1e-6);
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    pub fn paired(&self, other: &Scores) -> Option<Paired> {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let mut add = |a: Vec<f64>, b: Vec<f64>| {
            if a.len() == b.len() {
                first.extend(a);
                second.extend(b);
            }
        };
        let right = |score: &Score| -> Vec<f64> {
            score.right.iter().map(|right| f64::from(u8::from(*right))).collect()
        };
        for (name, score) in &self.data {
            if let Some(theirs) = other.data.get(name) {
                add(right(score), right(theirs));
            }
        }
        for (name, task) in &self.tasks {
            if let (Some(metric), Some(theirs)) = (task.accuracy(), other.tasks.get(name)) {
                add(task.values(&metric.key()), theirs.values(&metric.key()));
            }
        }
        paired(&first, &second)
    }

    /// The names of data sets and tasks: the columns of a comparison.
    pub(super) fn columns(&self) -> Vec<String> {
        let tasks = self.headline().map(|task| &task.name);
        self.data.keys().chain(tasks).cloned().collect()
    }

    /// A score in a comparison, and its rank, of which the lowest is the best.
    pub(super) fn cell(&self, name: &str) -> (String, Option<f64>) {
        if let Some(metric) = self.task(name).and_then(TaskScores::main) {
            let rank = if metric.higher_is_better { -metric.value } else { metric.value };
            return (metric_cell(metric), Some(rank));
        }
        let Some(score) = self.data.get(name) else { return ("-".into(), None) };
        match score.accuracy() {
            Some(x) => (format!("{} ({:.2})", with_error(x, score.stderr), score.loss), Some(-x)),
            None if self.mean_accuracy().is_some() => (format!("({:.2})", score.loss), None),
            None => (format!("{:.4}", score.loss), Some(score.loss)),
        }
    }

    /// The mean in a comparison, and its rank.
    pub(super) fn mean_cell(&self) -> (String, Option<f64>) {
        let loss = Some(self.mean_loss()).filter(|loss| !loss.is_nan());
        match (self.mean_accuracy(), loss) {
            (Some(x), Some(loss)) => {
                (format!("{} ({loss:.2})", with_error(x, self.mean_stderr())), Some(-x))
            }
            (Some(x), None) => (with_error(x, self.mean_stderr()), Some(-x)),
            (None, Some(loss)) => (format!("{loss:.4}"), Some(loss)),
            (None, None) => ("-".into(), None),
        }
    }

    /// The title of a comparison of such scores.
    pub(super) fn title(&self) -> &'static str {
        match (self.mean_accuracy().is_some(), self.tasks.is_empty()) {
            (true, true) => "exact match ± standard error (loss)",
            (true, false) => "accuracy ± standard error (loss)",
            (false, true) => "loss",
            (false, false) => "loss, or perplexity of tasks",
        }
    }

    /// One row per metric.
    fn metric_table(&self) -> Table {
        let header = ["data", "metric", "filters", "score", "std. error", "questions"];
        let mut table = Table::new("", header);
        table.text_columns = [1, 2].into();
        for (name, s) in &self.data {
            let questions = if s.right.is_empty() { "-".into() } else { count(s.right.len()) };
            let mut row = |metric: &str, score: String, stderr: Option<String>| {
                let stderr = stderr.unwrap_or_else(|| "-".into());
                let cells = [name, metric, "-", &score, &stderr, &questions];
                table.rows.push(cells.map(str::to_owned).to_vec());
            };
            let stderr = s.stderr.map(percent);
            row("loss", number(s.loss), None);
            if let Some(x) = s.exact_match {
                let own = stderr.clone().filter(|_| s.multiple_choice.is_none());
                row("exact_match", percent(x), own);
            }
            if let Some(x) = s.multiple_choice {
                row("multiple choice", percent(x), stderr);
            }
        }
        for task in self.groups.values().chain(self.tasks.values()) {
            for metric in &task.metrics {
                let show = |x: f64| if metric.is_share { percent(x) } else { perplexity(x) };
                table.rows.push(vec![
                    task.name.clone(),
                    metric.name.clone(),
                    metric.filter.clone(),
                    show(metric.value),
                    metric.stderr.map_or_else(|| "-".into(), show),
                    count(task.questions),
                ]);
            }
        }
        table.notes = self.notes();
        table
    }

    fn table(&self) -> Table {
        if !self.tasks.is_empty() {
            return self.metric_table();
        }
        let chooses = self.data.values().any(|s| s.multiple_choice.is_some());
        let header = ["data", "tokens", "loss", "perplexity", "exact match", "multiple choice"];
        let mut table = Table::new("", header.into_iter().take(if chooses { 6 } else { 5 }));
        for (name, s) in &self.data {
            let share = |x: Option<f64>, stderr: Option<f64>| {
                x.map_or("-".into(), |x| with_error(x, stderr))
            };
            let exact = s.stderr.filter(|_| s.multiple_choice.is_none());
            let mut row = vec![
                name.clone(),
                count(s.tokens),
                number(s.loss),
                perplexity(s.perplexity),
                share(s.exact_match, exact),
            ];
            row.extend(chooses.then(|| share(s.multiple_choice, s.stderr)));
            table.rows.push(row);
        }
        table.notes.extend(self.notes());
        table
    }
}

/// The main metric of a task in a comparison.
pub(super) fn metric_cell(metric: &TaskMetric) -> String {
    if metric.is_share { with_error(metric.value, metric.stderr) } else { perplexity(metric.value) }
}

/// Describes the paired comparison of `first` and `second`.
pub(super) fn paired_note(first: &str, second: &str, paired: &Paired) -> String {
    let Paired { questions, difference, interval: (low, high), p_value, .. } = paired;
    let points = |x: f64| format!("{:+.1}", 100.0 * x);
    let p = if *p_value < 1e-3 { format!("{p_value:.0e}") } else { format!("{p_value:.3}") };
    format!(
        "{first} against {second}: {} points (95%: {} to {}); of {questions} questions, only {first} is right on {} and only {second} on {}, p = {p}",
        points(*difference),
        points(*low),
        points(*high),
        paired.first,
        paired.second,
    )
}

/// The row name of the sources' average in a [`Scoreboard`].
pub const AVERAGE: &str = "average";

/// The row name of the merge.
pub const MERGED: &str = "DAM";

/// The scores of every source, their average and the merge on the same data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scoreboard {
    /// Rows by name: a source, [`AVERAGE`] or [`MERGED`].
    pub rows: Vec<(String, Scores)>,
}

impl Scoreboard {
    /// Returns the scores of the row `name`.
    pub fn row(&self, name: &str) -> Option<&Scores> {
        self.rows.iter().find(|(row, _)| row == name).map(|(_, scores)| scores)
    }

    /// Returns the paired comparisons of the merge, the last row, with the other rows.
    pub fn paired(&self) -> Vec<(String, Paired)> {
        let Some(((_, merged), others)) = self.rows.split_last() else { return Vec::new() };
        let one = |(name, scores): &(String, Scores)| Some((name.clone(), merged.paired(scores)?));
        others.iter().filter_map(one).collect()
    }

    /// Plots one bar per model and data set: exact match, or the loss if there is none.
    pub fn plot(&self) -> Figure {
        let columns = self.rows.first().map(|(_, s)| s.columns()).unwrap_or_default();
        let exact = self.rows.iter().any(|(_, s)| s.mean_accuracy().is_some());
        let value = |scores: &Scores, name: &String| {
            let task = || scores.task(name).and_then(TaskScores::accuracy).map(|m| m.value);
            let accuracy = scores.data.get(name).and_then(Score::accuracy).or_else(task);
            let loss = scores.data.get(name).map(|score| score.loss);
            (if exact { accuracy } else { loss }).unwrap_or(f64::NAN)
        };
        let row = |(name, scores): &(String, Scores)| {
            (name.clone(), columns.iter().map(|column| value(scores, column)).collect())
        };
        // The base is last, so that sources keep their colours from other figures.
        let (base, others): (Vec<_>, Vec<_>) = self.rows.iter().partition(|(name, _)| name == BASE);
        let series = others.into_iter().chain(base).map(row).collect();
        if exact {
            Figure::bars("exact match", "", columns, series).percent()
        } else {
            Figure::bars("loss", "nats; lower is better", columns, series)
        }
    }

    fn figure(&self) -> Option<Figure> {
        Some(self.plot()).filter(|_| !self.rows.is_empty())
    }

    fn table(&self) -> Table {
        let first = self.rows.first().map(|(_, scores)| scores);
        let columns = first.map(Scores::columns).unwrap_or_default();
        let header =
            ["model".to_owned()].into_iter().chain(columns.clone()).chain(["mean".to_owned()]);
        let mut table = Table::new(first.map_or("", Scores::title), header);
        for (name, scores) in &self.rows {
            let mut row = vec![name.clone()];
            row.extend(columns.iter().map(|column| scores.cell(column).0));
            row.push(scores.mean_cell().0);
            table.rows.push(row);
        }
        if let Some((merged, _)) = self.rows.last() {
            let paired = self.paired();
            let note = |(name, paired): &(String, Paired)| paired_note(merged, name, paired);
            table.notes.extend(paired.iter().map(note));
        }
        table.notes.extend(first.map(Scores::notes).unwrap_or_default());
        table
    }
}
