//! `open FILE`

use std::path::Path;

use serde_json::json;

use super::paths::at_home;
use super::prelude::*;
use crate::Dam;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[one(Kind::Session)], ..Signature::EMPTY },
    is_exported: true,
    wraps: true,
    rebuilds: Some(Rebuild::Sources),
    renames: true,
    needs_nothing: true,
    ..Verb::new(
        "open",
        "load a session that `save` wrote",
        "open merge.dam.safetensors",
        |arguments| Ok(Box::new(Open { file: at_home(&arguments.text(0)) })),
    )
};

struct Open {
    file: String,
}

impl Command for Open {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let dam = Dam::open(&self.file)?;
        let (report, steps) = (dam.report(), dam.steps());
        context.wrapped(dam);
        context.is_in(Path::new(&self.file));
        let json = json!({
            "sources": report.sources, "tensors": report.tensors,
            "coefficients": report.coefficients, "step": steps,
        });
        Ok(Reply::shown(&report, json).and(format!("at step {steps}")))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        code.let_dam(&format!("Dam::open({:?})?", self.file));
        code.seeds();
        code.show("dam");
        Ok(())
    }
}
