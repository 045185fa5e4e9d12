//! The results of `merge`, `evolve` and `bake`.

use serde::Serialize;
use serde_json::{Value, json};

use super::numbers::{bytes, count, number};
use super::table::Table;
use crate::checkpoint::Written;

shown_as_table!(MergeReport, EvolveReport, Written);

/// The result of `merge`.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeReport {
    /// The method's name.
    pub method: String,
    /// The merged sources, in the order of their weights.
    pub sources: Vec<String>,
    /// The base model, if the method uses task vectors.
    pub base: Option<String>,
    /// The number of tensors of the merge.
    pub tensors: usize,
    /// The number of weights of the merge.
    pub parameters: usize,
    /// The output, if it was written.
    pub written: Option<Written>,
    /// Integer and boolean tensors, copied from the first source.
    pub copied: Vec<String>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl MergeReport {
    fn table(&self) -> Table {
        let sources = self.sources.join(" + ");
        let from =
            self.base.as_ref().map(|base| format!(", relative to {base}")).unwrap_or_default();
        let mut table = match &self.written {
            Some(written) => {
                let mut table = written.table();
                table.notes.push(format!("{} merge of {sources}{from}", self.method));
                table
            }
            None => {
                let mut table = Table::new("", ["sources", "method", "tensors", "weights"]);
                table.rows.push(vec![
                    sources + &from,
                    self.method.clone(),
                    count(self.tensors),
                    count(self.parameters),
                ]);
                table.notes.push("not written yet: try it with eval, generate and inspect; write it with bake DIR".into());
                table
            }
        };
        if let (Some(first), false) = (self.sources.first(), self.copied.is_empty()) {
            table.notes.push(format!(
                "copied from {first}, because integers cannot be merged: {}",
                self.copied.join(", ")
            ));
        }
        table.notes.extend(self.notes.iter().cloned());
        table
    }
}

/// The report of `evolve`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvolveReport {
    /// The merge method of the candidates.
    pub method: String,
    /// The number of candidates tried.
    pub tried: usize,
    /// The tokens run by all candidates.
    pub tokens: u64,
    /// The loss at the start of the search, in nats, on the tuning data.
    pub first: f64,
    /// The lowest loss.
    pub best: f64,
    /// The number of search dimensions.
    pub dimensions: usize,
    /// Whether the search was stopped before its budget was used.
    pub stopped: bool,
}

impl EvolveReport {
    fn table(&self) -> Table {
        let mut table = Table::new(
            "",
            ["method", "dimensions", "candidates", "first loss", "best loss", "tokens"],
        );
        let numbers = [
            self.dimensions.to_string(),
            self.tried.to_string(),
            number(self.first),
            number(self.best),
        ];
        table.rows.push(
            [vec![self.method.clone()], numbers.into(), vec![count(self.tokens as usize)]].concat(),
        );
        if self.stopped {
            table.notes.push("stopped: best merge so far".into());
        }
        table
    }
}

impl Written {
    /// Returns the JSON form; empty parts are omitted.
    pub(crate) fn json(&self) -> Value {
        let mut json = json!({"path": self.path.display().to_string(), "files": self.files, "bytes": self.bytes});
        for (key, names) in [("copied", &self.copied), ("left_out", &self.left_out)] {
            if !names.is_empty() {
                json[key] = json!(names);
            }
        }
        if !self.notes.is_empty() {
            json["notes"] = json!(self.notes);
        }
        if let Some(retained) = &self.retained {
            let tensors = retained
                .tensors
                .iter()
                .map(|(name, rank, share)| json!({"tensor": name, "rank": rank, "share": share}));
            let least =
                retained.lowest().map(|(name, share)| json!({"tensor": name, "share": share}));
            json["adapter"] = json!({
                "rank": retained.rank, "share": retained.share, "least": least, "tensors": tensors.collect::<Vec<_>>(),
            });
        }
        json
    }

    fn table(&self) -> Table {
        let mut table = Table::new("", ["written", "files", "size"]);
        table.rows.push(vec![
            self.path.display().to_string(),
            self.files.to_string(),
            bytes(self.bytes),
        ]);
        table.notes.extend(self.notes.iter().cloned());
        table.notes.extend(self.retained.iter().map(ToString::to_string));
        if !self.copied.is_empty() {
            table.notes.push(format!("other files copied: {}", self.copied.join(", ")));
        }
        if !self.left_out.is_empty() {
            table.notes.push(format!("not copied: {}", self.left_out.join(", ")));
        }
        table
    }
}
