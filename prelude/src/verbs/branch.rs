//! `branch [NAME]`

use serde_json::json;

use super::Verb;
use super::arguments::Arguments;
use super::context::{Context, Reply};
use crate::Result;
use crate::show::Table;

pub const VERB: Verb = Verb {
    name: "branch",
    usage: "branch [NAME]",
    about: "start a branch here; alone: list branches",
    example: "branch cautious",
    rust: None,
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    if let Some(name) = arguments.optional(VERB.usage)? {
        let before = context.timeline().branch().to_owned();
        context.begin_branch(name)?;
        let text = format!("now on branch {name}; switch {before} goes back");
        return Ok(Reply::new(text, json!({"branch": name, "state": context.timeline().here()})));
    }
    let timeline = context.timeline();
    let mut table = Table::new("", ["branch", "state", "step", "loss"]);
    for (name, state) in timeline.branches() {
        let (mark, state, at) =
            (if name == timeline.branch() { " <" } else { "" }, *state, &timeline.states()[*state]);
        table.rows.push(vec![
            format!("{name}{mark}"),
            state.to_string(),
            at.step.to_string(),
            at.losses(),
        ]);
    }
    Ok(Reply::shown(&table, json!({"branch": timeline.branch(), "branches": timeline.branches()})))
}
