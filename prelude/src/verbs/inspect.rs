//! `inspect [TENSOR|GLOB]`

use serde_json::{Map, Value, json};

use super::prelude::*;
use crate::show::{Along, TensorDistances};
use crate::{Dam, Merged};

pub const VERB: Verb = Verb {
    signature: Signature { words: &[optional(Kind::Pattern)], ..Signature::EMPTY },
    is_exported: true,
    ..Verb::new(
        "inspect",
        "coefficients of tensors, and where the sources differ most; for a static merge: its distance from each source",
        "inspect layers.0.mlp",
        |arguments| Ok(Box::new(Inspect { pattern: arguments.text(0) })),
    )
};

struct Inspect {
    /// A tensor, a part of its name, or a glob; empty for all.
    pattern: String,
}

impl Command for Inspect {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        match context.latest()? {
            Latest::Dam(dam) => coefficients(&dam, &self.pattern),
            Latest::Merged(merged) => distances(&merged, &self.pattern),
        }
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let latest = code.latest()?;
        code.show(format!("{latest}.inspect({:?})?", self.pattern));
        Ok(())
    }
}

/// The distances of a static merge from its sources.
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
