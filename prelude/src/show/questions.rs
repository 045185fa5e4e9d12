//! The questions of tasks with their answers, as `eval --show` prints them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::numbers::{count, number};
use super::scores::Scores;
use super::table::Table;
use crate::eval::TaskQuestion;

shown_as_table!(Questions);

/// Longer texts are cut in the middle, to this many characters.
const WIDTH: usize = 200;

/// Questions of tasks with their answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Questions {
    /// The name of the task, the key of its metric, and the question.
    pub rows: Vec<(String, String, TaskQuestion)>,
}

impl Scores {
    /// Returns a table of all questions of the tasks.
    pub fn show_questions(&self) -> Questions {
        let key = |task: &str| {
            let metric = self.tasks.get(task).and_then(|task| task.main());
            metric.map_or_else(String::new, |metric| metric.key())
        };
        let row = |(task, question): (&str, &TaskQuestion)| {
            (task.to_owned(), key(task), question.clone())
        };
        Questions { rows: self.questions().map(row).collect() }
    }
}

impl Questions {
    /// Returns the questions that are answered right, by the main metric of their task.
    ///
    /// ```
    /// use dam_prelude::{Columns, Evaluation, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let files = vec!["mini_japanese".into()];
    /// let scores = dam.eval_with(&Evaluation { files, limit: Some(4), ..Evaluation::default() })?;
    /// let all = scores.show_questions();
    /// assert_eq!(all.clone().right().rows.len() + all.clone().wrong().rows.len(), 4);
    /// assert!(all.clone().better_than(&all).rows.is_empty());
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    pub fn right(mut self) -> Self {
        self.rows.retain(is_right);
        self
    }

    /// Returns the questions that are not answered right.
    pub fn wrong(mut self) -> Self {
        self.rows.retain(|row| !is_right(row));
        self
    }

    /// Returns the questions that are answered right here, and not in `other`, another model's
    /// answers to the same tasks.
    pub fn better_than(self, other: &Self) -> Self {
        let place = |row: &(String, String, TaskQuestion)| (row.0.clone(), row.2.document);
        let known: BTreeSet<(String, usize)> =
            other.rows.iter().filter(|row| is_right(row)).map(place).collect();
        let mut right = self.right();
        right.rows.retain(|row| !known.contains(&place(row)));
        right
    }

    fn table(&self) -> Table {
        let header = ["task", "question", "context", "target", "answer", "log-likelihood", "value"];
        let mut table = Table::new("", header);
        table.text_columns = [2, 3, 4].into();
        for (task, key, question) in &self.rows {
            for (i, answer) in question.answers.iter().enumerate() {
                let first = |text: String| if i == 0 { text } else { String::new() };
                let context = match question.contexts.get(i) {
                    Some(context) if i == 0 || question.contexts.len() > 1 => cut(context),
                    _ => String::new(),
                };
                let mut shown = cut(&answer.text);
                for (filter, texts) in &answer.filtered {
                    if filter != "none" {
                        shown += &format!(" [{filter}: {}]", cut(&texts.join(", ")));
                    }
                }
                for reason in answer.failures.values() {
                    shown += &format!(" [does not run: {}]", cut(reason));
                }
                let value = question.values.get(key).map_or_else(|| "-".into(), |x| number(*x));
                table.rows.push(vec![
                    first(task.clone()),
                    first(count(question.document + 1)),
                    context,
                    first(cut(&question.target)),
                    shown,
                    answer.log_likelihood.map_or_else(|| "-".into(), number),
                    first(value),
                ]);
            }
        }
        table
    }
}

fn is_right((_, key, question): &(String, String, TaskQuestion)) -> bool {
    question.is_right(key) == Some(true)
}

/// A text on one line, cut in the middle if it is long.
fn cut(text: &str) -> String {
    let text = text.replace('\n', "⏎");
    let count = text.chars().count();
    if count <= WIDTH {
        return text;
    }
    let begin: String = text.chars().take(WIDTH / 2).collect();
    let end: String = text.chars().skip(count - WIDTH / 2).collect();
    format!("{begin} … {end}")
}
