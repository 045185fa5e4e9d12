//! `data NAME=FILE...`

use anyhow::Result;
use serde_json::{Map, json};

use super::Verb;
use super::arguments::at_home;
use crate::context::{Context, Reply, refuse};

pub const VERB: Verb = Verb {
    name: "data",
    usage: "data NAME=FILE...",
    about: "give each source the data it was tuned on: JSON lines or text",
    example: "data ja=japanese.jsonl math=builtin:math",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    if arguments.is_empty() {
        return refuse("no data is named", format!("usage: {}", VERB.usage));
    }
    let (mut json, mut lines) = (Map::new(), Vec::new());
    // All files are read before any is taken.
    let mut models = context.current();
    let mut pairs = Vec::new();
    for argument in arguments {
        // The name of a source may itself hold a `=`.
        let known = models.report().0.into_iter().map(|s| s.name + "=").find(|name| argument.starts_with(name.as_str()));
        let split = known.map(|name| argument.split_at(name.len())).map(|(name, file)| (&name[..name.len() - 1], file));
        let Some((name, file)) = split.or_else(|| argument.split_once('=')) else {
            return refuse(format!("`{argument}` does not say whose data it is"), format!("usage: {}", VERB.usage));
        };
        let file = at_home(file);
        let examples = models.data(name, &file)?;
        lines.push(format!("{name}: {examples} examples of {file}"));
        json.insert(name.into(), json!(examples));
        pairs.push((name, file));
    }
    match &context.dam {
        Some(dam) => {
            for (name, file) in pairs {
                dam.data(name, &file)?;
            }
        }
        None => context.models = models,
    }
    Ok(Reply::new(lines.join("\n"), json!({"data": json})))
}
