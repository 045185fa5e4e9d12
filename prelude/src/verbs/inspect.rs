//! `inspect [TENSOR|GLOB]`

use crate::Result;
use crate::show::{Along, TensorDistances};
use crate::{Dam, Merged};
use serde_json::{Map, Value, json};

use super::Verb;
use super::arguments::Arguments;
use super::context::{Context, Latest, Reply};
use super::export::Code;

pub const VERB: Verb = Verb {
    name: "inspect",
    usage: "inspect [TENSOR|GLOB]",
    about: "coefficients of tensors, and where the sources differ most; for a static merge: its distance from each source",
    example: "inspect layers.0.mlp",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let pattern = arguments.optional(VERB.usage)?.unwrap_or_default();
    match context.latest()? {
        Latest::Dam(dam) => coefficients(&dam, pattern),
        Latest::Merged(merged) => distances(&merged, pattern),
    }
}

/// How far a merge that trains nothing is from its sources.
fn distances(merged: &Merged, pattern: &str) -> Result<Reply> {
    let report = merged.inspect(pattern)?;
    let one = |t: &TensorDistances| {
        let sources: Map<_, _> =
            t.sources.iter().map(|(name, distance)| (name.clone(), json!(distance))).collect();
        json!({"name": t.name, "kind": t.kind, "sources": sources})
    };
    let tensors: Vec<Value> = report.tensors.iter().map(one).collect();
    Ok(Reply::shown(&report, json!({"method": report.method, "tensors": tensors})))
}

fn coefficients(dam: &Dam, pattern: &str) -> Result<Reply> {
    let report = dam.inspect(pattern)?;
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
    Ok(Reply::shown(&report, json!({"tensors": tensors})))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let latest = code.latest()?;
    code.show(format!(
        "{latest}.inspect({:?})?",
        arguments.optional(VERB.usage)?.unwrap_or_default()
    ));
    Ok(())
}
