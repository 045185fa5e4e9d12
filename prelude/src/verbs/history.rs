//! `history`

use serde_json::{Value, json};

use super::prelude::*;
use crate::show::Table;
use crate::syntax::line;
use crate::timeline::{State, Timeline};

pub const VERB: Verb = Verb {
    needs_nothing: true,
    ..Verb::new(
        "history",
        "list all states, what led to each, and its loss; switch N goes to state N",
        "history",
        |_| Ok(Box::new(History)),
    )
};

struct History;

impl Command for History {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let timeline = context.timeline();
        let path = timeline.path(timeline.here());
        let mut table =
            Table::new("", ["state", "", "what was done", "step", "loss", "score", "branch"]);
        let mut fields: Vec<Value> = Vec::new();
        for (number, state) in timeline.states().iter().enumerate().skip(1) {
            let mark = if number == timeline.here() {
                ">"
            } else if path.contains(&number) {
                "|"
            } else {
                " "
            };
            let branches = branches_at(timeline, number);
            let row = [
                number.to_string(),
                mark.into(),
                state.what(number),
                state.step.to_string(),
                state.losses(),
                state.scores(),
            ];
            table.rows.push(row.into_iter().chain([branches.join(", ")]).collect());
            let done = state.done.as_ref().map(line);
            fields.push(json!({
                "state": number, "parent": state.parent, "done": done, "step": state.step, "loss": state.loss, "branches": branches,
            }));
        }
        if fields.is_empty() {
            table.notes.push("nothing done yet".into());
        }
        if timeline.here() == 0 && !fields.is_empty() {
            table.notes.push("everything is undone; redo restores it".into());
        }
        table.text_columns = [1, 2, 6].into();
        Ok(Reply::shown(
            &table,
            json!({"here": timeline.here(), "branch": timeline.branch(), "states": fields}),
        ))
    }
}

/// The branches that end at a state.
fn branches_at(timeline: &Timeline, state: usize) -> Vec<&str> {
    let ends = timeline.branches().iter().filter(|(_, end)| **end == state);
    ends.map(|(name, _)| name.as_str()).collect()
}

impl State {
    /// The statement, with its parent unless that is the previous state.
    fn what(&self, number: usize) -> String {
        let done = self.done.as_ref().map_or_else(|| "(a Rust cell)".into(), line);
        match self.parent {
            Some(parent) if parent + 1 != number => format!("{done}  (after {parent})"),
            _ => done,
        }
    }

    /// The loss as text.
    pub(super) fn losses(&self) -> String {
        self.loss.map_or_else(|| "-".into(), |loss| format!("{loss:.4}"))
    }

    fn scores(&self) -> String {
        match self.scored {
            Some((Some(exact), loss)) => format!("{:.1}% ({loss:.3})", 100.0 * exact),
            Some((None, loss)) => format!("({loss:.3})"),
            None => "-".into(),
        }
    }
}

impl Context {
    /// The reply of verbs that go to another state.
    pub(super) fn whereabouts(&self) -> Reply {
        let timeline = self.timeline();
        let (here, branch) = (timeline.here(), timeline.branch());
        let state = &timeline.states()[here];
        let what = match (here, &state.done) {
            (0, _) => "nothing is loaded".to_owned(),
            (_, Some(done)) => line(done),
            (_, None) => "a Rust cell".into(),
        };
        let loss = state.loss.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
        let steps =
            if self.dam.is_some() { format!("; step {}{loss}", state.step) } else { String::new() };
        let text = format!("state {here} of {}, after: {what}{steps}", timeline.states().len() - 1);
        let on = if timeline.branches().len() > 1 {
            format!(" (branch {branch})")
        } else {
            String::new()
        };
        Reply::new(
            text + &on,
            json!({"state": here, "branch": branch, "step": state.step, "loss": state.loss}),
        )
    }
}
