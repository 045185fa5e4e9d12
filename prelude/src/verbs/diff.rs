//! `diff NAME|N`

use serde_json::json;

use super::prelude::*;
use super::run::replay;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[one(Kind::Branch)], ..Signature::EMPTY },
    ..Verb::new(
        "diff",
        "compare coefficients, tensor by tensor, and scores with another branch or state",
        "diff main",
        |arguments| Ok(Box::new(Diff { with: arguments.text(0) })),
    )
};

struct Diff {
    /// A branch, or the number of a state.
    with: String,
}

impl Command for Diff {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let dam = context.dam()?.clone();
        let state = context.timeline().find(&self.with)?;
        let difference = dam.diff(&context.at(state, replay)?)?;
        let scores = difference.scores.as_ref();
        let scores = scores.map(|(here, there)| json!({"here": here.data, "there": there.data}));
        let fields = json!({
            "state": state, "tensors": difference.tensors, "incomparable": difference.incomparable,
            "scores": scores,
        });
        Ok(Reply::shown(&difference, fields))
    }
}
