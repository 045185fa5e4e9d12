//! `step [N]`

use serde_json::json;

use super::prelude::*;
use super::train::{train, with_steps};

pub const VERB: Verb = Verb {
    signature: Signature { words: &[optional(Kind::Count("N"))], ..Signature::EMPTY },
    is_exported: true,
    ..Verb::new(
        "step",
        "one optimiser step, or N; shows the loss before the last step",
        "step 5",
        |arguments| Ok(Box::new(Step { steps: arguments.number(0).unwrap_or(1) })),
    )
};

struct Step {
    steps: usize,
}

impl Command for Step {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let mut last = None;
        let report = train(context, self.steps, |step| last = Some(step.clone()))?;
        let Some(step) = last else {
            return refuse("no step was made", format!("usage: {}", VERB.usage()));
        };
        let stopped = if report.stopped {
            format!("stopped after step {}; all steps are kept", step.step)
        } else {
            String::new()
        };
        let json = json!({
            "step": step.step, "total": step.total, "grad_norm": step.grad_norm, "lr": step.lr,
        });
        Ok(Reply::shown(&step, json).and(stopped))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        code.dam()?;
        code.trains();
        code.show(match self.steps {
            1 => "dam.step()?".into(),
            n => format!("dam.train({n})?"),
        });
        Ok(())
    }

    fn record(&self, statement: &Statement, steps: usize, _: Option<&Reply>) -> Statement {
        with_steps(statement, steps)
    }
}
