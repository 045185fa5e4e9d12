//! `set [KEY=VALUE...]`

use crate::Error;
use crate::Result;
use crate::show::Table;
use crate::train::{KEYS, Settings};
use serde_json::{Map, json};

use super::Verb;
use super::context::{Context, Reply, refuse};
use super::export::{Code, fields};

pub const VERB: Verb = Verb {
    name: "set",
    usage: "set [KEY=VALUE...] [KEY...]",
    about: "change settings, or show all or the named ones",
    example: "set lr=1e-2 batch_size=4 schedule=linear warmup=10",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let mut settings = context.current().settings;
    let mut given = Vec::new();
    for argument in arguments {
        // A key alone only shows its value.
        let (key, value) = argument
            .split_once('=')
            .map_or((argument.as_str(), None), |(key, value)| (key, Some(value)));
        match value {
            Some(value) => settings.set(key, value)?,
            None if KEYS.contains(&key) => {}
            None if given.last().is_some_and(|last| arguments.contains(last)) => {
                return refuse(
                    format!("`{key}` stands alone"),
                    "settings are written KEY=VALUE, as in lr=1e-3",
                );
            }
            None => return Err(Error::unknown("key", key, KEYS)),
        }
        given.push(key.to_owned());
    }
    settings.device_and_dtype()?;
    match &context.dam {
        Some(dam) => dam.set(settings.clone())?,
        None => context.models.settings = settings.clone(),
    }
    let shown = KEYS.iter().filter(|key| given.is_empty() || given.iter().any(|g| g == *key));
    let shown: Vec<(&str, String)> =
        shown.map(|key| (*key, settings.get(key).unwrap_or_default())).collect();
    let mut table = Table::new("", ["setting", "value"]);
    table.rows = shown.iter().map(|(key, value)| vec![(*key).to_owned(), value.clone()]).collect();
    let text = if arguments.is_empty() {
        table.to_string()
    } else {
        shown.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    let json: Map<_, _> =
        shown.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    Ok(Reply::new(text, json!({"settings": json})))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let mut settings = Settings::default();
    let mut given = Vec::new();
    for (key, value) in arguments.iter().filter_map(|argument| argument.split_once('=')) {
        settings.set(key, value)?;
        given.retain(|known| *known != key);
        given.push(key);
    }
    if given.is_empty() {
        return Ok(());
    }
    let json = serde_json::to_value(&settings).unwrap_or_default();
    let is_weight = |key: &str| json["weights"].get(key).is_some();
    let literal = |key: &str| match key {
        "optimizer" => format!("Optimizer::{:?}", settings.optimizer),
        "schedule" => format!("Schedule::{:?}", settings.schedule),
        "reduction" => format!("Reduction::{:?}", settings.reduction),
        "recompute" => format!("train::Recompute::{:?}", settings.recompute),
        "device" | "dtype" => format!("{}.into()", json[key]),
        _ if is_weight(key) => json["weights"][key].to_string(),
        _ => json[key].to_string(),
    };
    if code.has_dam() {
        let (weights, others): (Vec<&str>, Vec<&str>) =
            given.iter().partition(|key| is_weight(key));
        let mut all: Vec<(&str, String)> =
            others.into_iter().map(|key| (key, literal(key))).collect();
        if !weights.is_empty() {
            let weights: Vec<(&str, String)> =
                weights.into_iter().map(|key| (key, literal(key))).collect();
            all.push((
                "weights",
                fields("train::TermWeights", &weights, Some("dam.settings().weights")),
            ));
        }
        code.line(format!("dam.set({})?;", fields("Settings", &all, Some("dam.settings()"))));
        code.show_in_cell("dam.settings()");
    } else {
        let models = code.models_mut();
        for key in &given {
            let within = if is_weight(key) { "weights." } else { "" };
            code.line(format!("{models}.settings.{within}{key} = {};", literal(key)));
        }
        code.show_in_cell("models.settings.clone()");
    }
    if given.contains(&"seed") {
        code.seeds();
    }
    code.changed();
    Ok(())
}
