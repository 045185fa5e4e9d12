//! `train N`

use std::ops::ControlFlow;

use serde_json::json;

use super::prelude::*;
use crate::show::{StepReport, TrainReport};

pub const VERB: Verb = Verb {
    signature: Signature { words: &[one(Kind::Count("N"))], ..Signature::EMPTY },
    is_exported: true,
    ..Verb::new(
        "train",
        "N optimiser steps with a progress bar; Ctrl-C stops and keeps every completed step",
        "train 200",
        |arguments| Ok(Box::new(Train { steps: arguments.number(0).unwrap_or(1) })),
    )
};

struct Train {
    steps: usize,
}

impl Command for Train {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let report = train(context, self.steps, |_| ())?;
        let json = json!({
            "steps": report.steps, "reached": report.reached, "first": report.first,
            "last": report.last, "stopped": report.stopped,
        });
        Ok(Reply::shown(&report, json))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        code.dam()?;
        code.trains();
        code.show(format!("dam.train({})?", self.steps));
        Ok(())
    }

    fn record(&self, statement: &Statement, steps: usize, _: Option<&Reply>) -> Statement {
        with_steps(statement, steps)
    }
}

/// Makes `steps` steps and calls `after` after each. If none is made, the latest merge stays the
/// latest.
pub(super) fn train(
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

/// The statement with the number of steps made, which a stop or an error may have cut short.
pub(super) fn with_steps(statement: &Statement, steps: usize) -> Statement {
    Statement { arguments: vec![steps.to_string().into()], ..statement.clone() }
}
