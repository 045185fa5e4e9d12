//! The result of a cell.

use std::time::Instant;

use serde_json::Value;

/// One output of a cell as in a notebook file, with its display id.
pub type Output = Value;

/// The result of a cell.
#[derive(Debug, Default)]
pub struct CellResult {
    pub outputs: Vec<Output>,
    /// The content of all messages about widgets, each with its type in `type`.
    pub comms: Vec<Value>,
    pub status: String,
    /// The times at which live displays were updated.
    pub updates: Vec<Instant>,
    pub seconds: f64,
}

impl CellResult {
    /// All output of one kind: `stdout`, `stderr`, `error`, or `shown` for plain text.
    pub fn text(&self, kind: &str) -> String {
        let text = |output: &Output| match (output["output_type"].as_str(), kind) {
            (Some("stream"), _) if output["name"] == kind => {
                output["text"].as_str().map(str::to_owned)
            }
            (Some("error"), "error") => {
                Some(format!("{}: {}\n{}", output["ename"], output["evalue"], output["traceback"]))
            }
            (Some("execute_result" | "display_data"), "shown") => {
                output["data"]["text/plain"].as_str().map(str::to_owned)
            }
            _ => None,
        };
        self.outputs.iter().filter_map(text).collect::<Vec<_>>().join("\n")
    }
}
