//! The results of `eval`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::numbers::{count, number, percent, perplexity};
use super::table::Table;
use crate::checkpoint::BASE;
use crate::eval::Score;

shown_as_table!(Scores);
shown_with_picture!(Scoreboard);

/// The result of `eval`: a score for each data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The scores by name of the data set.
    pub data: BTreeMap<String, Score>,
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
        learnt
            .into_iter()
            .chain(self.unused.iter().map(|(name, columns)| unused_columns(name, columns)))
            .collect()
    }

    /// Returns the mean loss over data sets, in nats.
    pub fn mean_loss(&self) -> f64 {
        self.data.values().map(|s| s.loss).sum::<f64>() / self.data.len().max(1) as f64
    }

    /// Returns the mean accuracy over data sets with questions, 0 to 1.
    pub fn mean_accuracy(&self) -> Option<f64> {
        let all: Vec<f64> = self.data.values().filter_map(Score::accuracy).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    fn table(&self) -> Table {
        let chooses = self.data.values().any(|s| s.multiple_choice.is_some());
        let header = ["data", "tokens", "loss", "perplexity", "exact match", "multiple choice"];
        let mut table = Table::new("", header.into_iter().take(if chooses { 6 } else { 5 }));
        for (name, s) in &self.data {
            let share = |x: Option<f64>| x.map_or("-".into(), percent);
            let mut row = vec![
                name.clone(),
                count(s.tokens),
                number(s.loss),
                perplexity(s.perplexity),
                share(s.exact_match),
            ];
            row.extend(chooses.then(|| share(s.multiple_choice)));
            table.rows.push(row);
        }
        table.notes.extend(self.notes());
        table
    }
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

    /// Plots one bar per model and data set: exact match, or the loss if there is none.
    pub fn plot(&self) -> Figure {
        let data: Vec<String> =
            self.rows.first().map(|(_, s)| s.data.keys().cloned().collect()).unwrap_or_default();
        let exact =
            self.rows.iter().flat_map(|(_, s)| s.data.values()).any(|s| s.accuracy().is_some());
        let value = |s: &Score| if exact { s.accuracy().unwrap_or(f64::NAN) } else { s.loss };
        let row = |(name, scores): &(String, Scores)| {
            let values =
                data.iter().map(|data| scores.data.get(data).map_or(f64::NAN, value)).collect();
            (name.clone(), values)
        };
        // The base is last, so that sources keep their colours from other figures.
        let (base, others): (Vec<_>, Vec<_>) = self.rows.iter().partition(|(name, _)| name == BASE);
        let series = others.into_iter().chain(base).map(row).collect();
        match exact {
            true => Figure::bars("exact match", "", data, series).percent(),
            false => Figure::bars("loss", "nats; lower is better", data, series),
        }
    }

    fn figure(&self) -> Option<Figure> {
        Some(self.plot()).filter(|_| !self.rows.is_empty())
    }

    fn table(&self) -> Table {
        let data: Vec<&String> =
            self.rows.first().map(|(_, s)| s.data.keys().collect()).unwrap_or_default();
        let header = ["model".to_owned()]
            .into_iter()
            .chain(data.iter().map(|d| (*d).clone()))
            .chain(["mean".to_owned()]);
        let mut table = Table::new("exact match (loss)", header);
        table.notes.extend(self.rows.first().map(|(_, scores)| scores.notes()).unwrap_or_default());
        for (name, scores) in &self.rows {
            let mut row = vec![name.clone()];
            row.extend(scores.data.values().map(|s| match s.accuracy() {
                Some(exact) => format!("{} ({:.2})", percent(exact), s.loss),
                None => format!("({:.2})", s.loss),
            }));
            let loss = scores.mean_loss();
            let exact = scores.mean_accuracy().map(|x| percent(x) + " ").unwrap_or_default();
            row.push(format!("{exact}({loss:.2})"));
            table.rows.push(row);
        }
        table
    }
}
