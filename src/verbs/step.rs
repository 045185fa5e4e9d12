//! `step [N]`

use anyhow::Result;
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, count};
use crate::context::{Context, Reply};
use crate::interrupt;

pub const VERB: Verb = Verb {
    name: "step",
    usage: "step [N]",
    about: "one optimiser step, or N of them; shows the loss before the last one",
    example: "step 5",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let steps = arguments.optional(VERB.usage)?.map_or(Ok(1), |n| count("step", n))?;
    let dam = context.dam()?;
    let mut report = dam.step()?;
    let last = report.step + steps - 1;
    for _ in 1..steps {
        if interrupt::is_stopped() {
            break;
        }
        report = dam.step()?;
    }
    let stopped =
        if report.step < last { format!("\nstopped after step {}: everything is kept", report.step) } else { String::new() };
    Ok(Reply::new(
        format!("{report}{stopped}"),
        json!({"step": report.step, "total": report.total, "grad_norm": report.grad_norm, "lr": report.lr}),
    ))
}
