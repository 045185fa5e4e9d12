//! The comparison of methods: one row per method, with the best value of every column marked.

use std::path::Path;

use serde::Serialize;

use super::figure::Figure;
use super::numbers::{bytes, count, with_error};
use super::scores::{Scores, paired_note};
use super::table::Table;
use crate::checkpoint::{Written, new_file};
use crate::error::{Error, Result};
use crate::eval::{Cost, Paired, deviation, mean};

shown_with_picture!(Comparison);

/// One method.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MethodResult {
    /// The method's name.
    pub method: String,
    /// The parameters selected for it.
    pub chosen: String,
    /// The scores of its merge; `None` if it cannot merge these sources.
    pub scores: Option<Scores>,
    /// The cost of making the merge, tuning included.
    pub cost: Option<Cost>,
    /// The reason it cannot merge these sources.
    pub refused: Option<String>,
    /// The mean score with each seed, the first included; empty if there is one seed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<f64>,
}

/// The result of `compare`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// In the requested order.
    pub rows: Vec<MethodResult>,
    /// Seed and settings.
    pub notes: Vec<String>,
}

impl MethodResult {
    /// Returns the mean over data sets and tasks: of accuracies (higher is better) if any has one,
    /// else of losses.
    pub fn mean(&self) -> Option<f64> {
        let scores = self.scores.as_ref()?;
        scores.mean_accuracy().or(Some(scores.mean_loss()).filter(|loss| !loss.is_nan()))
    }

    /// Returns the mean over seeds of the mean score, and its standard deviation; `None` for one
    /// seed.
    pub fn over_seeds(&self) -> Option<(f64, f64)> {
        (self.seeds.len() > 1).then(|| (mean(&self.seeds), deviation(&self.seeds)))
    }

    /// [`MethodResult::over_seeds`] as a cell of the table.
    fn seeds_cell(&self) -> String {
        let is_share = self.scores.as_ref().is_some_and(|scores| scores.mean_accuracy().is_some());
        match self.over_seeds() {
            Some((mean, deviation)) if is_share => with_error(mean, Some(deviation)),
            Some((mean, deviation)) => format!("{mean:.3} ± {deviation:.3}"),
            None => "-".into(),
        }
    }

    /// Returns the standard error of the mean accuracy.
    pub fn stderr(&self) -> Option<f64> {
        self.scores.as_ref().and_then(Scores::mean_stderr)
    }
}

impl Comparison {
    /// Returns the row of `method`.
    pub fn row(&self, method: &str) -> Option<&MethodResult> {
        self.rows.iter().find(|row| row.method == method)
    }

    /// Plots one bar per method: the mean over data sets of exact match, or of the loss if there is
    /// none.
    pub fn plot(&self) -> Figure {
        let exact = self
            .rows
            .iter()
            .filter_map(|row| row.scores.as_ref())
            .any(|s| s.mean_accuracy().is_some());
        let methods = self.rows.iter().map(|row| row.method.clone()).collect();
        let values = self.rows.iter().map(|row| row.mean().unwrap_or(f64::NAN)).collect();
        let series = vec![("mean".to_owned(), values)];
        if exact {
            Figure::bars("exact match, mean over data sets", "", methods, series).percent()
        } else {
            Figure::bars("loss, mean over data sets", "nats; lower is better", methods, series)
        }
    }

    fn figure(&self) -> Option<Figure> {
        Some(self.plot()).filter(|_| !self.rows.is_empty())
    }

    /// Returns the paired comparisons of the first method that made a merge with the others.
    pub fn paired(&self) -> Vec<(String, String, Paired)> {
        let mut merged =
            self.rows.iter().filter_map(|row| Some((&row.method, row.scores.as_ref()?)));
        let Some((first, scores)) = merged.next() else { return Vec::new() };
        let one = |(name, others): (&String, &Scores)| {
            Some((first.clone(), name.clone(), scores.paired(others)?))
        };
        merged.filter_map(one).collect()
    }

    fn table(&self) -> Table {
        let first = self.rows.iter().find_map(|row| row.scores.as_ref());
        let columns = first.map(Scores::columns).unwrap_or_default();
        let seeds = self.rows.iter().map(|row| row.seeds.len()).max().unwrap_or(0);
        let over_seeds = (seeds > 1).then(|| format!("mean ± deviation of {seeds} seeds"));
        let header = [
            vec!["method".to_owned()],
            columns.clone(),
            vec!["mean".to_owned()],
            over_seeds.clone().into_iter().collect(),
            ["tokens", "time", "memory"].map(str::to_owned).into(),
        ];
        let width = header.iter().map(Vec::len).sum::<usize>();
        let mut table = Table::new(first.map_or("loss", Scores::title), header.concat());
        // The values compared in each column; lower is better.
        let mut ranks: Vec<Vec<Option<f64>>> = Vec::new();
        for row in &self.rows {
            let Some(scores) = &row.scores else {
                let why = row.refused.clone().unwrap_or_default();
                table.notes.push(format!("{}: {why}", row.method));
                table.rows.push([vec![row.method.clone()], vec!["-".into(); width - 1]].concat());
                ranks.push(vec![None; width]);
                continue;
            };
            let (mut cells, mut numbers) = (vec![row.method.clone()], vec![None]);
            let all = columns.iter().map(|name| scores.cell(name)).chain([scores.mean_cell()]);
            for (cell, rank) in all {
                cells.push(cell);
                numbers.push(rank);
            }
            if over_seeds.is_some() {
                cells.push(row.seeds_cell());
                numbers.push(None);
            }
            let cost = row.cost.unwrap_or_default();
            cells.extend([
                count(cost.tokens as usize),
                format!("{:.1} s", cost.seconds),
                bytes(cost.peak_bytes),
            ]);
            numbers.extend([None; 3]);
            table.rows.push(cells);
            ranks.push(numbers);
            if !row.chosen.is_empty() {
                table.notes.push(format!("{}: {}", row.method, row.chosen));
            }
        }
        for column in 0..table.header.len() {
            let best = ranks.iter().filter_map(|row| row[column]).fold(f64::INFINITY, f64::min);
            let is_best = |(i, row): (usize, &Vec<Option<f64>>)| {
                (row[column] == Some(best)).then_some((i, column))
            };
            table.best.extend(ranks.iter().enumerate().filter_map(is_best));
        }
        let paired = self.paired();
        let notes = paired.iter().map(|(a, b, paired)| paired_note(a, b, paired));
        table.notes.extend(notes);
        table.notes.extend(first.map(Scores::notes).unwrap_or_default());
        table.notes.extend(self.notes.iter().cloned());
        table
    }

    /// The file formats of tables, by suffix.
    pub const FORMATS: [&str; 3] = [".md", ".html", ".json"];

    /// Writes the table to a new file: Markdown, an HTML fragment or JSON, depending on the suffix.
    ///
    /// # Errors
    /// Another suffix; the file exists, the disk is full, or the path is not writable.
    pub fn write(&self, file: impl AsRef<Path>) -> Result<Written> {
        let file = file.as_ref();
        let json = |e: serde_json::Error| Error::Json { file: file.into(), reason: e.to_string() };
        let text = match file.extension().and_then(|end| end.to_str()) {
            Some("md") => self.table().markdown(),
            Some("html") => self.table().html(),
            Some("json") => serde_json::to_string_pretty(self).map_err(json)?,
            _ => {
                return Err(Error::bad_value(
                    "table",
                    &file.display().to_string(),
                    "a name that ends in .md, .html or .json",
                ));
            }
        };
        new_file(file, text.as_bytes())
    }
}
