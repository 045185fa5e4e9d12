//! `inspect [TENSOR or GLOB]`

use anyhow::Result;
use dam_prelude::show::Along;
use serde_json::{Map, Value, json};

use super::Verb;
use super::arguments::Arguments;
use crate::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "inspect",
    usage: "inspect [TENSOR or GLOB]",
    about: "coefficients of tensors: mean, spread, extremes, and where sources differ most",
    example: "inspect layers.0.mlp",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let report = context.dam()?.inspect(arguments.optional(VERB.usage)?.unwrap_or_default())?;
    let tensors: Vec<Value> = report
        .tensors
        .iter()
        .map(|t| {
            let sources: Map<_, _> = t.sources.iter().map(|(name, stats)| (name.clone(), json!(stats))).collect();
            let what = if t.along == Along::Row { "row" } else { "column" };
            let columns: Vec<Value> = t.columns.iter().map(|(j, c)| json!({what: j, "coefficients": c})).collect();
            json!({
                "name": t.name, "kind": t.kind, "trains": t.trains, "sources": sources, "along": t.along,
                format!("{what}s"): columns,
            })
        })
        .collect();
    Ok(Reply::new(&report, json!({"tensors": tensors})))
}
