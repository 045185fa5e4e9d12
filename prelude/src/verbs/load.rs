//! `load [NAME=]SOURCE...`

use serde_json::json;

use super::paths::source_at_home;
use super::prelude::*;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[some(Kind::Source)], ..Signature::EMPTY },
    is_exported: true,
    rebuilds: Some(Rebuild::Sources),
    renames: true,
    needs_nothing: true,
    ..Verb::new(
        "load",
        "open models: directories, org/name on the hub, FILE.gguf, builtin:NAME, each +ADAPTER; base= marks the base",
        "load base=builtin:base ja=builtin:japanese math=builtin:math sql=builtin:sql",
        |arguments| {
            let specs = arguments.words(0).iter().map(|spec| source_at_home(spec)).collect();
            Ok(Box::new(Load { specs }))
        },
    )
};

struct Load {
    specs: Vec<String>,
}

impl Command for Load {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        context.models = context.current().and_load(&self.specs)?;
        context.merged = None;
        let again = if context.dam.take().is_some() {
            "the sources have changed: run `wrap` again"
        } else {
            ""
        };
        let report = context.models.report();
        Ok(Reply::shown(&report, json!({"sources": report.0})).and(again))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let loaded = if code.has_models() {
            format!("{}.and_load([", code.models())
        } else {
            "load([".into()
        };
        code.let_models(&call(&loaded, &strings(&self.specs), "])?"));
        code.show("models");
        Ok(())
    }
}
