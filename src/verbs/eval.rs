//! `eval [FILE]`

use anyhow::Result;
use serde_json::{Value, json};

use super::Verb;
use super::arguments::Arguments;
use crate::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "eval",
    usage: "eval [FILE...] [--all]",
    about: "score the merge on held-out data; with --all, every source and the average too",
    example: "eval --all",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &["--all"])?;
    let files: Vec<String> = arguments.words.iter().map(|w| (*w).to_owned()).collect();
    let dam = context.dam()?;
    if arguments.flags.is_empty() {
        let scores = dam.eval(&files)?;
        return Ok(Reply::new(&scores, json!({"scores": scores})));
    }
    let board = dam.scoreboard(&files)?;
    let rows: Vec<Value> = board.rows.iter().map(|(model, scores)| json!({"model": model, "scores": scores})).collect();
    Ok(Reply::new(&board, json!({"scores": board.row("DAM"), "rows": rows})))
}
