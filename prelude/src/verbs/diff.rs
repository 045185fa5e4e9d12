//! `diff NAME|N`

use serde_json::json;

use super::Verb;
use super::arguments::Arguments;
use super::context::{Context, Reply};
use crate::Result;

pub const VERB: Verb = Verb {
    name: "diff",
    usage: "diff NAME|N",
    about: "compare coefficients, tensor by tensor, and scores with another branch or state",
    example: "diff main",
    rust: None,
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let name = arguments.word(VERB.usage)?;
    let dam = context.dam()?.clone();
    let state = context.timeline().find(name)?;
    let other = context.at(state)?;
    let difference = dam.diff(&other)?;
    let scores = difference
        .scores
        .as_ref()
        .map(|(here, there)| json!({"here": here.data, "there": there.data}));
    let fields = json!({"state": state, "tensors": difference.tensors, "incomparable": difference.incomparable, "scores": scores});
    Ok(Reply::shown(&difference, fields))
}
