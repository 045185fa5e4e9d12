//! `undo [N]`

use super::prelude::*;
use super::run::replay;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[optional(Kind::Count("N"))], ..Signature::EMPTY },
    renames: true,
    ..Verb::new(
        "undo",
        "undo the last change, or the last N; redo restores them",
        "undo",
        |arguments| Ok(Box::new(Undo { count: arguments.number(0).unwrap_or(1) })),
    )
};

struct Undo {
    count: usize,
}

impl Command for Undo {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        context.undo(self.count, replay)?;
        Ok(context.whereabouts())
    }
}
