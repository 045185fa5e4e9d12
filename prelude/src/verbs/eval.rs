//! `eval [FILE]`

use crate::Result;
use crate::show::Scores;
use serde_json::{Value, json};

use super::Verb;
use super::arguments::{Arguments, at_home};
use super::context::{Context, Latest, Reply};
use super::export::{Code, call, path};

pub const VERB: Verb = Verb {
    name: "eval",
    usage: "eval [FILE...] [--all]",
    about: "score the merge on files, or on the held-out data of built-in models; --all: also its sources and their average",
    example: "eval --all",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &["--all"])?;
    let files: Vec<String> = arguments.words.iter().map(|w| at_home(w)).collect();
    let latest = context.latest()?;
    if arguments.flags.is_empty() {
        let scores = match latest {
            Latest::Dam(dam) => dam.eval(&files)?,
            Latest::Merged(merged) => merged.eval(&files)?,
        };
        return Ok(Reply::shown(
            &scores,
            with_unused(json!({"scores": scores.data, "held_out": scores.held_out}), &scores),
        ));
    }
    let board = match latest {
        Latest::Dam(dam) => dam.scoreboard(&files)?,
        Latest::Merged(merged) => merged.scoreboard(&files)?,
    };
    let rows: Vec<Value> = board
        .rows
        .iter()
        .map(|(model, scores)| json!({"model": model, "scores": scores.data}))
        .collect();
    // The merge has the last row.
    let scores = board.rows.last().map(|(_, scores)| scores.clone()).unwrap_or_default();
    let json = json!({"scores": scores.data, "held_out": scores.held_out, "rows": rows});
    Ok(Reply::shown(&board, with_unused(json, &scores)))
}

/// `json` with the columns that were not read, where there are any.
fn with_unused(mut json: Value, scores: &Scores) -> Value {
    if !scores.unused.is_empty() {
        json["unused"] = json!(scores.unused);
    }
    json
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &[], &["--all"])?;
    let files: Vec<String> =
        arguments.words.iter().map(|file| format!("{}.into()", path(file))).collect();
    let (latest, what) =
        (code.latest()?, if arguments.flags.is_empty() { "eval" } else { "scoreboard" });
    code.show(call(&format!("{latest}.{what}(&["), &files, "])?"));
    Ok(())
}
