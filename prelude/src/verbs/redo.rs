//! `redo [N]`

use super::prelude::*;
use super::run::replay;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[optional(Kind::Count("N"))], ..Signature::EMPTY },
    renames: true,
    ..Verb::new("redo", "redo the last undone change, or N changes", "redo", |arguments| {
        Ok(Box::new(Redo { count: arguments.number(0).unwrap_or(1) }))
    })
};

struct Redo {
    count: usize,
}

impl Command for Redo {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        context.redo(self.count, replay)?;
        Ok(context.whereabouts())
    }
}
