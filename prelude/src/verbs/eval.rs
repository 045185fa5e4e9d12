//! `eval [FILE...]`

use serde_json::{Value, json};

use super::paths::at_home;
use super::prelude::*;
use crate::show::Scores;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[any(Kind::Data)], flags: &["--all"], ..Signature::EMPTY },
    is_exported: true,
    ..Verb::new(
        "eval",
        "score the merge on files, or on the held-out data of built-in models; --all: also its sources and their average",
        "eval --all",
        |arguments| {
            let files = arguments.words(0).iter().map(|file| at_home(file)).collect();
            Ok(Box::new(Eval { files, all: arguments.has("--all") }))
        },
    )
};

struct Eval {
    files: Vec<String>,
    /// Whether sources and their average are scored too.
    all: bool,
}

impl Command for Eval {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let latest = context.latest()?;
        if !self.all {
            let scores = match latest {
                Latest::Dam(dam) => dam.eval(&self.files)?,
                Latest::Merged(merged) => merged.eval(&self.files)?,
            };
            let json = json!({"scores": scores.data, "held_out": scores.held_out});
            return Ok(Reply::shown(&scores, with_unused(json, &scores)));
        }
        let board = match latest {
            Latest::Dam(dam) => dam.scoreboard(&self.files)?,
            Latest::Merged(merged) => merged.scoreboard(&self.files)?,
        };
        let row = |(model, scores): &(_, Scores)| json!({"model": model, "scores": scores.data});
        let rows: Vec<Value> = board.rows.iter().map(row).collect();
        // The merge has the last row.
        let scores = board.rows.last().map(|(_, scores)| scores.clone()).unwrap_or_default();
        let json = json!({"scores": scores.data, "held_out": scores.held_out, "rows": rows});
        Ok(Reply::shown(&board, with_unused(json, &scores)))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let files: Vec<String> = self.files.iter().map(|file| format!("{file:?}.into()")).collect();
        let (latest, what) = (code.latest()?, if self.all { "scoreboard" } else { "eval" });
        code.show(call(&format!("{latest}.{what}(&["), &files, "])?"));
        Ok(())
    }
}

/// `json` with the columns that were not used, if any.
fn with_unused(mut json: Value, scores: &Scores) -> Value {
    if !scores.unused.is_empty() {
        json["unused"] = json!(scores.unused);
    }
    json
}
