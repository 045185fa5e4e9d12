//! `loss`

use crate::Result;
use serde_json::{Map, json};

use super::Verb;
use super::arguments::Arguments;
use super::context::{Context, Reply, refuse};
use super::export::Code;

pub const VERB: Verb = Verb {
    name: "loss",
    usage: "loss",
    about: "every loss term on the next batch, per source",
    example: "loss",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    if !Arguments::read(arguments, &[], &[])?.words.is_empty() {
        return refuse("loss takes no arguments", "set KEY=VALUE changes what is computed");
    }
    let report = context.dam()?.loss()?;
    let terms: Map<_, _> = report.terms.iter().map(|(name, x)| (name.clone(), json!(x))).collect();
    Ok(Reply::shown(&report, json!({"total": report.total, "terms": terms, "notes": report.notes})))
}

fn rust(code: &mut Code, _: &[String]) -> Result<()> {
    code.dam()?;
    code.show("dam.loss()?");
    Ok(())
}
