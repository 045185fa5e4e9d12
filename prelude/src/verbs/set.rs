//! `set [KEY=VALUE...]`

use crate::Error;
use crate::Result;
use crate::show::Table;
use crate::train::KEYS;
use serde_json::{Map, json};

use super::Verb;
use super::context::{Context, Reply, refuse};

pub const VERB: Verb = Verb {
    name: "set",
    usage: "set [KEY=VALUE...] [KEY...]",
    about: "change settings, or show them: all, or those named",
    example: "set lr=1e-2 batch_size=4 schedule=linear warmup=10",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let mut settings = context.current().settings;
    let mut given = Vec::new();
    for argument in arguments {
        // A key alone only shows its value.
        let (key, value) = argument.split_once('=').map_or((argument.as_str(), None), |(key, value)| (key, Some(value)));
        match value {
            Some(value) => settings.set(key, value)?,
            None if KEYS.contains(&key) => {}
            None if given.last().is_some_and(|last| arguments.contains(last)) => {
                return refuse(format!("`{key}` stands alone"), "settings are written KEY=VALUE, as in lr=1e-3");
            }
            None => return Err(Error::unknown("key", key, KEYS)),
        }
        given.push(key.to_owned());
    }
    settings.place()?;
    match &context.dam {
        Some(dam) => dam.set(settings.clone())?,
        None => context.models.settings = settings.clone(),
    }
    let shown = KEYS.iter().filter(|key| given.is_empty() || given.iter().any(|g| g == *key));
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
