//! `branch [NAME]`

use serde_json::json;

use super::prelude::*;
use crate::show::Table;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[optional(Kind::NewBranch)], ..Signature::EMPTY },
    renames: true,
    needs_nothing: true,
    ..Verb::new(
        "branch",
        "start a branch here; without arguments: list branches",
        "branch cautious",
        |arguments| Ok(Box::new(Branch { name: arguments.word(0).map(str::to_owned) })),
    )
};

struct Branch {
    /// The new branch; none lists all.
    name: Option<String>,
}

impl Command for Branch {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        if let Some(name) = &self.name {
            let before = context.timeline().branch().to_owned();
            context.begin_branch(name)?;
            let text = format!("now on branch {name}; switch {before} goes back");
            let json = json!({"branch": name, "state": context.timeline().here()});
            return Ok(Reply::new(text, json));
        }
        let timeline = context.timeline();
        let mut table = Table::new("", ["branch", "state", "step", "loss"]);
        for (name, number) in timeline.branches() {
            let mark = if name == timeline.branch() { " <" } else { "" };
            let state = &timeline.states()[*number];
            let name = format!("{name}{mark}");
            table.rows.push(vec![name, number.to_string(), state.step.to_string(), state.losses()]);
        }
        let json = json!({"branch": timeline.branch(), "branches": timeline.branches()});
        Ok(Reply::shown(&table, json))
    }
}
