//! `loss`

use serde_json::{Map, json};

use super::prelude::*;

pub const VERB: Verb = Verb {
    is_exported: true,
    ..Verb::new("loss", "every loss term on the next batch, per source", "loss", |_| {
        Ok(Box::new(Loss))
    })
};

struct Loss;

impl Command for Loss {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let report = context.dam()?.loss()?;
        let terms: Map<_, _> =
            report.terms.iter().map(|(name, x)| (name.clone(), json!(x))).collect();
        let json = json!({"total": report.total, "terms": terms, "notes": report.notes});
        Ok(Reply::shown(&report, json))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        code.dam()?;
        code.show("dam.loss()?");
        Ok(())
    }
}
