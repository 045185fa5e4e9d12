//! The table and the JSON.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use dam_prelude::show::Table;
use serde_json::{Value, json};

use crate::machine::Machine;

/// The result of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Fail,
    /// Not run; the note says why.
    Skipped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::Skipped => "skipped",
        })
    }
}

/// A row of the table of checks.
#[derive(Clone, Debug)]
pub struct Row {
    pub part: String,
    pub name: String,
    pub dtype: &'static str,
    /// What the device was compared with.
    pub reference: String,
    pub difference: Option<f64>,
    pub tolerance: Option<f64>,
    pub outcome: Outcome,
    /// What failed, or why it was skipped; else where the difference is largest.
    pub note: String,
    /// The seconds of the device.
    pub seconds: Option<f64>,
}

/// A number without a reference.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub name: String,
    /// `None`: not measured; the note says why.
    pub value: Option<f64>,
    pub unit: String,
    pub note: String,
}

/// Everything that a run found.
pub struct Report {
    pub machine: Machine,
    pub quick: bool,
    pub rows: Vec<Row>,
    pub measurements: Vec<Measurement>,
}

fn number(x: Option<f64>) -> String {
    x.map_or_else(|| "-".into(), |x| if x == 0.0 { "0".into() } else { format!("{x:.1e}") })
}

/// Prints the rows of a part.
pub fn print_rows(title: &str, rows: &[Row]) {
    let header = ["check", "dtype", "compared with", "difference", "tolerance", "result", "s"];
    let mut table = Table::new(title, header);
    table.text_columns = [1, 2, 5].into();
    for row in rows {
        let seconds = row.seconds.map_or_else(|| "-".into(), |s| format!("{s:.2}"));
        table.rows.push(vec![
            row.name.clone(),
            row.dtype.into(),
            row.reference.clone(),
            number(row.difference),
            number(row.tolerance),
            row.outcome.to_string(),
            seconds,
        ]);
    }
    println!("\n{}", table.lines(None));
    for row in rows.iter().filter(|row| row.outcome != Outcome::Pass) {
        println!("  {} ({}): {}: {}", row.name, row.dtype, row.outcome, row.note);
    }
}

/// Prints measurements.
pub fn print_measurements(title: &str, measurements: &[Measurement]) {
    let mut table = Table::new(title, ["measurement", "value", "unit", "note"]);
    table.text_columns = [2, 3].into();
    for m in measurements {
        let value = m.value.map_or_else(|| "-".into(), significant);
        table.rows.push(vec![m.name.clone(), value, m.unit.clone(), m.note.clone()]);
    }
    println!("\n{}", table.lines(None));
}

/// Four significant digits.
fn significant(x: f64) -> String {
    let digits = if x == 0.0 { 0.0 } else { x.abs().log10().floor() };
    format!("{x:.*}", (3.0 - digits).clamp(0.0, 9.0) as usize)
}

impl Report {
    /// The number of rows with this result.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.rows.iter().filter(|row| row.outcome == outcome).count()
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "part": row.part, "name": row.name, "dtype": row.dtype, "reference": row.reference,
                // JSON has no infinities: what is not a number is null, and the result says FAIL.
                "difference": row.difference, "tolerance": row.tolerance,
                "result": row.outcome.to_string(), "note": row.note, "seconds": row.seconds,
            })
        };
        json!({
            "program": {"name": "dam-lab gpu_check", "version": env!("CARGO_PKG_VERSION")},
            "machine": self.machine.json(),
            "quick": self.quick,
            "failed": self.count(Outcome::Fail),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "measurements": self.measurements.iter().map(Measurement::json).collect::<Vec<_>>(),
        })
    }

    /// Writes the JSON.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.json())? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Measurement {
    pub fn json(&self) -> Value {
        json!({"name": self.name, "value": self.value, "unit": self.unit, "note": self.note})
    }

    /// Reads what `json` wrote.
    pub fn of(json: &Value) -> Self {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            value: json["value"].as_f64(),
            unit: text("unit"),
            note: text("note"),
        }
    }
}
