//! `set [KEY=VALUE...]`

use serde_json::{Map, json};

use super::prelude::*;
use crate::show::Table;
use crate::train::{SETTINGS, Setting, Settings};

pub const VERB: Verb = Verb {
    signature: Signature { words: &[any(Kind::Setting)], ..Signature::EMPTY },
    is_exported: true,
    rebuilds: Some(Rebuild::Sources),
    needs_nothing: true,
    ..Verb::new(
        "set",
        "change settings, or show all or the named ones",
        "set lr=1e-2 batch_size=4 schedule=linear warmup=10",
        |arguments| Ok(Box::new(Set { given: arguments.words(0).to_vec() })),
    )
};

struct Set {
    /// `KEY=VALUE` to change a setting, `KEY` to show it.
    given: Vec<String>,
}

/// The key and value of an argument.
fn split(given: &str) -> (&str, Option<&str>) {
    given.split_once('=').map_or((given, None), |(key, value)| (key, Some(value)))
}

impl Command for Set {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let mut settings = context.current().settings;
        for (key, value) in self.given.iter().map(|given| split(given)) {
            if let Some(value) = value {
                settings.set(key, value)?;
            }
        }
        settings.device_and_dtype(&[])?;
        match &context.dam {
            Some(dam) => dam.set(settings.clone())?,
            None => context.models.settings = settings.clone(),
        }
        let is_named = |s: &&Setting| {
            self.given.is_empty() || self.given.iter().any(|given| split(given).0 == s.key)
        };
        let shown = SETTINGS.iter().filter(is_named);
        let shown: Vec<(&str, String)> =
            shown.map(|s| (s.key, settings.get(s.key).unwrap_or_default())).collect();
        let json: Map<_, _> =
            shown.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let text = if self.given.is_empty() {
            let mut table = Table::new("", ["setting", "value"]);
            table.rows =
                shown.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
            table.to_string()
        } else {
            let each = shown.iter().map(|(key, value)| format!("{key}={value}"));
            each.collect::<Vec<_>>().join(" ")
        };
        let is_device_given = self.given.iter().any(|given| split(given).0 == "device");
        let note = is_device_given.then(|| settings.device_note()).flatten().unwrap_or_default();
        Ok(Reply::new(text, json!({"settings": json})).and(note))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let mut settings = Settings::default();
        let mut given = Vec::new();
        for (key, value) in self.given.iter().map(|given| split(given)) {
            if let Some(value) = value {
                settings.set(key, value)?;
                let setting = Setting::find(key)?;
                given.retain(|known: &&Setting| known.key != setting.key);
                given.push(setting);
            }
        }
        if given.is_empty() {
            return Ok(());
        }
        if code.has_dam() {
            let (weights, others): (Vec<&Setting>, Vec<&Setting>) =
                given.iter().partition(|setting| setting.is_weight());
            let valued = |setting: &&Setting| (setting.key, setting.rust(&settings));
            let mut all: Vec<_> = others.iter().map(valued).collect();
            if !weights.is_empty() {
                let weights: Vec<_> = weights.iter().map(valued).collect();
                let rest = Some("dam.settings().weights");
                all.push(("weights", fields("train::TermWeights", &weights, rest)));
            }
            code.line(format!("dam.set({})?;", fields("Settings", &all, Some("dam.settings()"))));
            code.show_in_cell("dam.settings()");
        } else {
            let models = code.models_mut();
            for setting in &given {
                let within = if setting.is_weight() { "weights." } else { "" };
                let (key, value) = (setting.key, setting.rust(&settings));
                code.line(format!("{models}.settings.{within}{key} = {value};"));
            }
            code.show_in_cell("models.settings.clone()");
        }
        if given.iter().any(|setting| setting.key == "seed") {
            code.seeds();
        }
        code.changed();
        Ok(())
    }
}
