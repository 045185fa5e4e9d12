//! `set [KEY=VALUE...]`

use anyhow::Result;
use dam_prelude::Error;
use dam_prelude::show::Table;
use dam_prelude::train::KEYS;
use serde_json::{Map, json};

use super::Verb;
use crate::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "set",
    usage: "set [KEY=VALUE...]",
    about: "change settings; alone, show them",
    example: "set lr=1e-2 batch_size=4 schedule=linear warmup=10",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let before = context.current().settings;
    let mut settings = before.clone();
    for argument in arguments {
        match argument.split_once('=') {
            Some((key, value)) => settings.set(key, value)?,
            None if KEYS.contains(&argument.as_str()) => return Err(Error::bad_value(argument, "", "KEY=VALUE").into()),
            None => return Err(Error::unknown("key", argument, KEYS).into()),
        }
    }
    settings.place()?;
    match &context.dam {
        Some(dam) => dam.set(settings.clone())?,
        None => context.models.settings = settings.clone(),
    }
    let shown = KEYS.iter().filter(|key| arguments.is_empty() || before.get(key) != settings.get(key));
    let shown: Vec<(&str, String)> = shown.map(|key| (*key, settings.get(key).unwrap_or_default())).collect();
    let mut table = Table::new("", ["setting", "value"]);
    table.rows = shown.iter().map(|(key, value)| vec![(*key).to_owned(), value.clone()]).collect();
    let text = if arguments.is_empty() {
        table.to_string()
    } else {
        shown.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    let json: Map<_, _> = shown.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    Ok(Reply::new(text, json!({"settings": json})))
}
