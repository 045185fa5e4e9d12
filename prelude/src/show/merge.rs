//! What `merge`, `evolve` and `bake` give.

use serde::Serialize;
use serde_json::{Value, json};

use super::Table;
use super::numbers::{bytes, count, number};
use crate::checkpoint::Written;

shown_as_table!(MergeReport, EvolveReport, Written);

/// What `merge` gives.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeReport {
    /// The method's name.
    pub method: String,
    /// What is merged, in the order of the weights.
    pub sources: Vec<String>,
    /// What they are measured from, where the method does that.
    pub base: Option<String>,
    /// Tensors of the merge.
    pub tensors: usize,
    /// Weights of the merge.
    pub parameters: usize,
    /// Where it is, if it was written.
    pub written: Option<Written>,
    /// Tensors of whole numbers or truth values, copied from the first source.
    pub copied: Vec<String>,
    /// What a reader should know of it.
    pub notes: Vec<String>,
}

impl MergeReport {
    fn table(&self) -> Table {
        let sources = self.sources.join(" + ");
        let from = self.base.as_ref().map(|base| format!(", measured from {base}")).unwrap_or_default();
        let mut table = match &self.written {
            Some(written) => {
                let mut table = written.table();
                table.notes.push(format!("{} merge of {sources}{from}", self.method));
                table
            }
            None => {
                let mut table = Table::new("", ["merge of", "method", "tensors", "weights"]);
                table.rows.push(vec![sources + &from, self.method.clone(), count(self.tensors), count(self.parameters)]);
                table.notes.push("not written: eval, generate and inspect try it, bake DIR writes it".into());
                table
            }
        };
        if let (Some(first), false) = (self.sources.first(), self.copied.is_empty()) {
            table.notes.push(format!("copied from {first}, as whole numbers do not merge: {}", self.copied.join(", ")));
        }
        table.notes.extend(self.notes.iter().cloned());
        table
    }
}

/// What `evolve` gives beside the merge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvolveReport {
    /// What merged the candidates.
    pub method: String,
    /// Candidates that were tried.
    pub tried: usize,
    /// Tokens that they ran.
    pub tokens: u64,
    /// The loss where the search began, in nats, on the data that candidates were judged by.
    pub first: f64,
    /// The least loss.
    pub best: f64,
    /// Numbers that were searched over.
    pub dimensions: usize,
    /// Whether it was stopped before its budget was spent.
    pub stopped: bool,
}

impl EvolveReport {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["method", "numbers", "candidates", "first loss", "best loss", "tokens"]);
        let numbers = [self.dimensions.to_string(), self.tried.to_string(), number(self.first), number(self.best)];
        table.rows.push([vec![self.method.clone()], numbers.into(), vec![count(self.tokens as usize)]].concat());
        if self.stopped {
            table.notes.push("stopped: this is the best so far".into());
        }
        table
    }
}

impl Written {
    /// For a program; what there is nothing of is not there.
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
            let tensors =
                retained.tensors.iter().map(|(name, rank, share)| json!({"tensor": name, "rank": rank, "share": share}));
            let least = retained.lowest().map(|(name, share)| json!({"tensor": name, "share": share}));
            json["adapter"] = json!({
                "rank": retained.rank, "share": retained.share, "least": least, "tensors": tensors.collect::<Vec<_>>(),
            });
        }
        json
    }

    fn table(&self) -> Table {
        let mut table = Table::new("", ["written", "files", "size"]);
        table.rows.push(vec![self.path.display().to_string(), self.files.to_string(), bytes(self.bytes)]);
        table.notes.extend(self.notes.iter().cloned());
        table.notes.extend(self.retained.iter().map(ToString::to_string));
        if !self.copied.is_empty() {
            table.notes.push(format!("copied beside the weights: {}", self.copied.join(", ")));
        }
        if !self.left_out.is_empty() {
            table.notes.push(format!("not copied: {}", self.left_out.join(", ")));
        }
        table
    }
}
