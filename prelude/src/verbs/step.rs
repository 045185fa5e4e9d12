//! `step [N]`

use crate::Result;
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, count};
use super::context::{Context, Reply, refuse};
use super::export::Code;
use super::train::trained;

pub const VERB: Verb = Verb {
    name: "step",
    usage: "step [N]",
    about: "one optimiser step, or N; shows the loss before the last step",
    example: "step 5",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let steps = arguments.optional(VERB.usage)?.map_or(Ok(1), |n| count("step", n))?;
    let mut last = None;
    let train = trained(context, steps, |step| last = Some(step.clone()))?;
    let Some(step) = last else {
        return refuse("no step was made", format!("usage: {}", VERB.usage));
    };
    let stopped = if train.stopped {
        format!("stopped after step {}: everything is kept", step.step)
    } else {
        String::new()
    };
    let json =
        json!({"step": step.step, "total": step.total, "grad_norm": step.grad_norm, "lr": step.lr});
    Ok(Reply::shown(&step, json).and(stopped))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    code.dam()?;
    code.trains();
    let arguments = Arguments::read(arguments, &[], &[])?;
    code.show(match arguments.optional(VERB.usage)? {
        None | Some("1") => "dam.step()?".into(),
        Some(n) => format!("dam.train({})?", count("step", n)?),
    });
    Ok(())
}
