//! `eval [FILE]`

use anyhow::Result;
use dam_prelude::show::MERGED;
use serde_json::{Value, json};

use super::Verb;
use super::arguments::{Arguments, at_home};
use crate::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "eval",
    usage: "eval [FILE...] [--all]",
    about: "score the merge on files, or on held-out data of built-in models; --all: its sources and their average too",
    example: "eval --all",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &["--all"])?;
    let files: Vec<String> = arguments.words.iter().map(|w| at_home(w)).collect();
    let dam = context.dam()?;
    if arguments.flags.is_empty() {
        let scores = dam.eval(&files)?;
        return Ok(Reply::new(&scores, json!({"scores": scores.data, "held_out": scores.held_out})));
    }
    let board = dam.scoreboard(&files)?;
    let rows: Vec<Value> = board.rows.iter().map(|(model, scores)| json!({"model": model, "scores": scores.data})).collect();
    let dam = board.row(MERGED).cloned().unwrap_or_default();
    Ok(Reply::new(&board, json!({"scores": dam.data, "held_out": dam.held_out, "rows": rows})))
}
