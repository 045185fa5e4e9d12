//! `data NAME=FILE...`

use std::collections::BTreeMap;

use crate::Result;
use crate::show::unused_columns;
use serde_json::{Map, json};

use super::Verb;
use super::arguments::at_home;
use super::context::{Context, Reply, refuse};
use super::export::{Code, path};

pub const VERB: Verb = Verb {
    name: "data",
    usage: "data NAME=FILE...",
    about: "set each source's tuning data: JSON lines, CSV, parquet or text, local or hub:org/name",
    example: "data ja=japanese.jsonl math=builtin:math",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    if arguments.is_empty() {
        return refuse("no data given", format!("usage: {}", VERB.usage));
    }
    let mut models = context.current();
    let mut pairs = Vec::new();
    for argument in arguments {
        // The name of a source may itself hold a `=`.
        let known = models.names().find_map(|name| {
            Some((name.to_owned(), argument.strip_prefix(name)?.strip_prefix('=')?))
        });
        let Some((name, file)) =
            known.or_else(|| argument.split_once('=').map(|(name, file)| (name.to_owned(), file)))
        else {
            return refuse(
                format!("`{argument}` does not name a source"),
                format!("usage: {}", VERB.usage),
            );
        };
        pairs.push((name, at_home(file)));
    }
    // All files are read before any is taken.
    let examples = match &context.dam {
        Some(dam) => dam.data_of(
            &pairs.iter().map(|(name, file)| (name.as_str(), file.as_str())).collect::<Vec<_>>(),
        )?,
        None => {
            let examples =
                pairs.iter().map(|(name, file)| models.data(name, file)).collect::<Result<_>>()?;
            context.models = models;
            examples
        }
    };
    let models = context.current();
    let lines = pairs
        .iter()
        .zip(&examples)
        .map(|((name, file), n)| format!("{name}: {n} examples of {file}"));
    let unused: BTreeMap<&str, &[String]> =
        (pairs.iter().map(|(name, _)| (name.as_str(), models.unused_columns(name))))
            .filter(|(_, columns)| !columns.is_empty())
            .collect();
    let lines = lines.chain(unused.iter().map(|(name, columns)| unused_columns(name, columns)));
    let data: Map<_, _> =
        pairs.iter().zip(&examples).map(|((name, _), n)| (name.clone(), json!(n))).collect();
    let mut json = json!({"data": data});
    if !unused.is_empty() {
        json["unused"] = json!(unused);
    }
    Ok(Reply::new(lines.collect::<Vec<_>>().join("\n"), json))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    for argument in arguments {
        let known = code.names().iter().find_map(|name| {
            Some((name.as_str(), argument.strip_prefix(name)?.strip_prefix('=')?))
        });
        let Some((name, file)) = known.or_else(|| argument.split_once('=')) else { continue };
        let given = format!("data({name:?}, {})?;", path(file));
        let whose = if code.has_dam() { "dam" } else { code.models_mut() };
        code.line(format!("{whose}.{given}"));
    }
    code.changed();
    Ok(())
}
