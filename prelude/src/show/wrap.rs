//! The results of `wrap` and `check_scheme`, and the forecast of training.

use serde::Serialize;

use super::numbers::{bytes, count};
use super::table::Table;
use crate::coefficients::SchemeReport;
use crate::train::Forecast;

shown_as_table!(WrapReport, SchemeReport);

/// The result of `wrap`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WrapReport {
    /// The merged sources, in the order of their coefficients.
    pub sources: Vec<String>,
    /// The number of weights with coefficients, without biases.
    pub tensors: usize,
    /// The scheme's name and settings.
    pub scheme: String,
    /// The number of parameter values of the scheme, including biases; with columns, these are the
    /// coefficients.
    pub coefficients: usize,
    /// The number of trainable values.
    pub trainable: usize,
    /// The number of weights of one source.
    pub parameters: usize,
    /// The resource forecast of training.
    pub forecast: Forecast,
    /// Notes for the user about the start.
    pub notes: Vec<String>,
}

impl WrapReport {
    fn table(&self) -> Table {
        let mut table =
            Table::new("", ["sources", "tensors", "coefficients", "trainable", "share of weights"]);
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

/// Describes the resources that training needs.
fn forecast(f: &Forecast) -> Vec<String> {
    let assumed = if f.has_data { "" } else { ", assumed without data" };
    let pace = match f.minutes {
        Some(minutes) if minutes < 1.0 => {
            format!("about {:.0} s per 100 steps", (60.0 * minutes).max(1.0))
        }
        Some(minutes) => format!("about {minutes:.0} min per 100 steps"),
        None => "speed unknown".into(),
    };
    let again =
        if f.recompute { "; the backward pass recomputes layers to save memory" } else { "" };
    let solve = match f.solve_bytes {
        0 => String::new(),
        needed => format!("{} to solve, ", bytes(needed)),
    };
    let gpu = f.gpu.as_ref().map(|gpu| {
        let streamed = match gpu.streamed_bytes {
            0 => String::new(),
            more => format!(", {} of sources copied for each use", bytes(more)),
        };
        format!(
            "GPU memory: {} to train, {solve}{} of sources{streamed}; {} free",
            bytes(gpu.working_bytes),
            bytes(gpu.resident_bytes),
            bytes(gpu.available_bytes),
        )
    });
    let solve = if gpu.is_some() { "" } else { &solve };
    let mut lines = vec![
        format!("training: {pace} ({} tokens per step{assumed}){again}", count(f.tokens)),
        format!(
            "memory: {} to train, {solve}up to {} for teacher outputs, {} of mapped sources; {} free",
            bytes(f.working_bytes),
            bytes(f.teacher_bytes),
            bytes(f.mapped_bytes),
            bytes(f.available_bytes),
        ),
        format!("disk: {} for the baked merge{}", bytes(f.disk_bytes), reading(f)),
    ];
    if let Some(gpu) = gpu {
        lines.insert(1, gpu);
    }
    lines
}

/// Describes what steps read from the disk, if sources do not stay in memory.
fn reading(f: &Forecast) -> String {
    let Some(disk) = &f.disk else { return String::new() };
    let speed = match disk.bytes_per_second {
        Some(speed) => format!(" (it reads {} per second)", bytes(speed as u64)),
        None => String::new(),
    };
    format!(
        "; {} of sources do not stay in memory, and each pass reads them{speed}",
        bytes(disk.passing_bytes)
    )
}

impl SchemeReport {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["scheme", "tensors", "parameters", "gradients checked"]);
        let counts = [self.tensors, self.parameters, self.gradients].map(count);
        table.rows.push([vec![self.scheme.clone()], counts.to_vec()].concat());
        table.notes.push(
            "shapes and initial values are valid, and gradients agree with finite differences"
                .into(),
        );
        table
    }
}
