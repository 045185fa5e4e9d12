//! `open FILE`

use std::path::Path;

use crate::Dam;
use crate::Result;
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, at_home};
use super::context::{Context, Reply};
use super::export::{Code, path};

pub const VERB: Verb = Verb {
    name: "open",
    usage: "open FILE",
    about: "load a session that `save` wrote",
    example: "open merge.dam.safetensors",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let file = at_home(arguments.word(VERB.usage)?);
    let dam = Dam::open(&file)?;
    let (report, steps) = (dam.report(), dam.steps());
    context.wrapped(dam);
    context.is_in(Path::new(&file));
    let json = json!({"sources": report.sources, "tensors": report.tensors, "coefficients": report.coefficients, "step": steps});
    Ok(Reply::shown(&report, json).and(format!("at step {steps}")))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    code.let_dam(&format!("Dam::open({})?", path(arguments.word(VERB.usage)?)));
    code.seeds();
    code.show("dam");
    Ok(())
}
