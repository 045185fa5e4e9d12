//! `switch NAME|N`

use super::prelude::*;
use super::run::replay;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[one(Kind::Branch)], ..Signature::EMPTY },
    renames: true,
    ..Verb::new("switch", "go to the end of a branch, or to state N", "switch main", |arguments| {
        Ok(Box::new(Switch { to: arguments.text(0) }))
    })
};

struct Switch {
    /// A branch, or the number of a state.
    to: String,
}

impl Command for Switch {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        context.switch(&self.to, replay)?;
        Ok(context.whereabouts())
    }
}
