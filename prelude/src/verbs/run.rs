//! Running statements.

use std::path::Path;

use super::find;
use super::reply::Reply;
use crate::Result;
use crate::syntax::Statement;
use crate::timeline::{Context, Rebuild, Recovered, recover};

impl Context {
    /// Runs a statement and records the state that it leads to.
    ///
    /// # Errors
    /// An unknown verb, or the error of the verb.
    pub fn run(&mut self, statement: &Statement) -> Result<Reply> {
        let verb = find(&statement.verb)?;
        // Changes made by a cell are a state of their own.
        self.record(None)?;
        let before = self.timeline().here();
        let command = verb.command(&statement.arguments)?;
        let reply = command.run(self);
        let steps = self.dam.as_ref().map_or(0, |dam| dam.steps());
        let made = steps.saturating_sub(self.timeline().states()[before].step);
        let done = command.record(statement, made, reply.as_ref().ok());
        // Also after an error, which completed steps precede.
        let recorded = self.record(Some(&done));
        let changed = if reply.is_ok() { recorded? } else { recorded.unwrap_or_default() };
        if !changed && self.timeline().here() == before && reply.is_ok() && verb.is_exported {
            self.timeline.look(done);
        }
        reply
    }

    /// Resumes the session that [`Context::keep`] wrote; if sources or data of its state are
    /// missing or have changed, at the nearest earlier state that can be rebuilt.
    ///
    /// # Errors
    /// Files that are missing or damaged; sources that even the first states need.
    pub fn recover(directory: &Path) -> Result<Recovered> {
        recover(directory, replay)
    }
}

/// Runs a recorded statement again if it rebuilds `part` of a state.
pub(crate) fn replay(context: &mut Context, statement: &Statement, part: Rebuild) -> Result<()> {
    let verb = find(&statement.verb)?;
    if verb.rebuilds == Some(part) {
        verb.command(&statement.arguments)?.run(context)?;
    }
    Ok(())
}
