//! `train N`

use std::ops::ControlFlow;

use crate::Result;
use crate::show::{StepReport, TrainReport};
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, count};
use super::context::{Context, Reply};
use super::export::Code;

pub const VERB: Verb = Verb {
    name: "train",
    usage: "train N",
    about: "N optimiser steps with a progress bar; Ctrl-C stops and keeps every completed step",
    example: "train 200",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let steps = count("train", arguments.word(VERB.usage)?)?;
    let report = trained(context, steps, |_| ())?;
    let json = json!({
        "steps": report.steps, "reached": report.reached, "first": report.first, "last": report.last, "stopped": report.stopped,
    });
    Ok(Reply::shown(&report, json))
}

/// Makes `steps` steps, with a look after each. Where none was made, what was made last is still
/// that.
pub(super) fn trained(
    context: &mut Context,
    steps: usize,
    mut after: impl FnMut(&StepReport),
) -> Result<TrainReport> {
    let merged = context.merged.clone();
    let dam = context.trainee()?.clone();
    let before = dam.steps();
    let report = dam.train_with(steps, |step| {
        after(step);
        ControlFlow::Continue(())
    });
    if report.is_err() && dam.steps() == before {
        context.merged = merged;
    }
    report
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    code.dam()?;
    code.trains();
    let arguments = Arguments::read(arguments, &[], &[])?;
    code.show(format!("dam.train({})?", count("train", arguments.word(VERB.usage)?)?));
    Ok(())
}
