//! What `wrap` gives, what training will take, and what a scheme's check found.

use serde::Serialize;

use super::Table;
use super::numbers::{bytes, count};
use crate::coefficients::Checked;
use crate::train::Forecast;

shown_as_table!(WrapReport, Checked);

/// What `wrap` gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WrapReport {
    /// What is merged, in the order of the coefficients.
    pub sources: Vec<String>,
    /// Weights that have coefficients; biases are not counted.
    pub tensors: usize,
    /// The scheme's name and settings.
    pub scheme: String,
    /// All numbers that make the coefficients, those of biases too: in columns the coefficients themselves.
    pub coefficients: usize,
    /// Those that train.
    pub trainable: usize,
    /// Weights of one source.
    pub parameters: usize,
    /// What training it will take.
    pub forecast: Forecast,
    /// What a reader should know of this start.
    pub notes: Vec<String>,
}

impl WrapReport {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["merge of", "tensors", "coefficients", "trainable", "share of weights"]);
        let share = 100.0 * self.coefficients as f64 / self.parameters.max(1) as f64;
        table.rows.push(vec![
            self.sources.join(" + "),
            self.tensors.to_string(),
            count(self.coefficients),
            count(self.trainable),
            format!("{share:.2}%"),
        ]);
        table.notes = forecast(&self.forecast);
        table.notes.extend(self.notes.iter().cloned());
        table
    }
}

/// What training will take, in words.
fn forecast(f: &Forecast) -> Vec<String> {
    let assumed = if f.has_data { "" } else { ", assumed until there is data" };
    let pace = match f.minutes {
        Some(minutes) if minutes < 1.0 => format!("about {:.0} s a hundred steps", (60.0 * minutes).max(1.0)),
        Some(minutes) => format!("about {minutes:.0} min a hundred steps"),
        None => "on a GPU".into(),
    };
    let again = if f.recompute { "; layers are computed again on the way down to save memory" } else { "" };
    vec![
        format!("training: {pace} ({} tokens a step{assumed}){again}", count(f.tokens)),
        format!(
            "memory: {} to work in, up to {} for teachers' answers, sources of {} mapped; {} are free",
            bytes(f.working_bytes),
            bytes(f.teacher_bytes),
            bytes(f.mapped_bytes),
            bytes(f.available_bytes),
        ),
        format!("disk: {} when it is baked", bytes(f.disk_bytes)),
    ]
}

impl Checked {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["scheme", "tensors", "parameters", "gradients checked"]);
        let counts = [self.tensors, self.parameters, self.gradients].map(count);
        table.rows.push([vec![self.scheme.clone()], counts.to_vec()].concat());
        table.notes.push("shapes and starts are right, and gradients agree with finite differences".into());
        table
    }
}
