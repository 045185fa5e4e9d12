//! `load [NAME=]SOURCE...`

use crate::Result;
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, source_at_home};
use super::context::{Context, Reply, refuse};
use super::export::{Code, call, strings};

pub const VERB: Verb = Verb {
    name: "load",
    usage: "load [NAME=]SOURCE...",
    about: "open models: directories, org/name on the hub, FILE.gguf, builtin:NAME, each +ADAPTER; base= marks the base",
    example: "load base=builtin:base ja=builtin:japanese math=builtin:math sql=builtin:sql",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    if arguments.words.is_empty() {
        return refuse("no source given", format!("usage: {}", VERB.usage));
    }
    context.models =
        context.current().and_load(arguments.words.iter().map(|spec| source_at_home(spec)))?;
    context.merged = None;
    let again = if context.dam.take().is_some() {
        "the merge is of other sources now: wrap again"
    } else {
        ""
    };
    let report = context.models.report();
    Ok(Reply::shown(&report, json!({"sources": report.0})).and(again))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let specs = strings(arguments.words.iter().map(|spec| source_at_home(spec)));
    let loaded =
        if code.has_models() { format!("{}.and_load([", code.models()) } else { "load([".into() };
    code.let_models(&call(&loaded, &specs, "])?"));
    code.show("models");
    Ok(())
}
