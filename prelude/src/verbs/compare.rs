//! `compare [METHOD...] [FILE...]`

use std::ops::ControlFlow;

use crate::Compare;
use crate::Result;
use crate::show::Comparison;
use serde_json::{Value, json};

use super::Verb;
use super::arguments::{Arguments, at_home, count, free};
use super::context::{Context, Reply, refuse};
use super::export::{Code, fields, path, strings};

pub const VERB: Verb = Verb {
    name: "compare",
    usage: "compare [METHOD...] [steps=150] [budget=200] [examples=48] [on=FILE,...] [TABLE.md|TABLE.html|TABLE.json]",
    about: "merge with each method, tuned on the sources' own data, and compare scores and cost",
    example: "compare dam linear ties dare_ties evolve",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &["steps", "budget", "examples", "on"], &[])?;
    context.loaded()?;
    let mut contest = Compare::default();
    let (tables, methods): (Vec<&str>, Vec<&str>) =
        arguments.words.iter().copied().partition(is_table);
    if tables.len() > 1 {
        return refuse("only one table can be written", format!("usage: {}", VERB.usage));
    }
    let file = tables.first().map(|file| free(file)).transpose()?;
    if !methods.is_empty() {
        contest.methods = methods.into_iter().map(str::to_owned).collect();
    }
    for (key, value) in &arguments.pairs {
        match *key {
            "on" => contest.files = value.split(',').map(at_home).collect(),
            "steps" => contest.steps = count(key, value)?,
            "budget" => contest.budget = count(key, value)?,
            _ => contest.examples = count(key, value)?,
        }
    }
    let table = context.current().compare(&contest, |_| ControlFlow::Continue(()))?;
    let rows: Vec<Value> = (table.rows.iter())
        .map(|row| {
            json!({
                "method": row.method, "chosen": row.chosen, "scores": row.scores.as_ref().map(|s| &s.data), "mean": row.mean(),
                "seconds": row.cost.map(|c| c.seconds), "tokens": row.cost.map(|c| c.tokens),
                "peak_bytes": row.cost.map(|c| c.peak_bytes), "refused": row.refused,
            })
        })
        .collect();
    let mut fields = json!({"rows": rows, "notes": table.notes});
    let mut at = String::new();
    if let Some(file) = &file {
        let written = table.write(file)?;
        at = format!("written to {}", written.path.display());
        fields["path"] = json!(written.path.display().to_string());
    }
    Ok(Reply::shown(&table, fields).and(at))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &["steps", "budget", "examples", "on"], &[])?;
    let (tables, methods): (Vec<&str>, Vec<&str>) =
        arguments.words.iter().copied().partition(is_table);
    let list = |texts: Vec<String>| format!("[{}].map(String::from).into()", texts.join(", "));
    let mut given = Vec::new();
    if !methods.is_empty() {
        given.push(("methods", list(strings(methods))));
    }
    for (key, value) in &arguments.pairs {
        match *key {
            "on" => given.push(("files", list(value.split(',').map(path).collect()))),
            "steps" => given.push(("steps", count(key, value)?.to_string())),
            "budget" => given.push(("budget", count(key, value)?.to_string())),
            _ => given.push(("examples", count(key, value)?.to_string())),
        }
    }
    let rest = (given.len() < 5).then_some("Compare::default()");
    let models = code.models();
    code.line(format!("let contest = {};", fields("Compare", &given, rest)));
    code.line(format!(
        "let table = {models}.compare(&contest, |_| std::ops::ControlFlow::Continue(()))?;"
    ));
    for file in tables.iter().map(|file| path(file)) {
        code.line(format!(
            "if !std::path::Path::new({file}).exists() {{\n    table.write({file})?;\n}}"
        ));
    }
    code.show("table");
    Ok(())
}

/// Whether a word is the name of a table to be written.
fn is_table(word: &&str) -> bool {
    Comparison::FORMATS.iter().any(|end| word.ends_with(end))
}
