//! `rust`, which the prompt of the program handles

use super::prelude::*;

pub const VERB: Verb = Verb {
    renames: true,
    needs_nothing: true,
    at_prompt: Some(AtPrompt::Rust),
    ..Verb::new(
        "rust",
        "continue in Rust with the merge as `dam`, for example to define a scheme; `back` returns with the changed merge",
        "rust",
        |_| Ok(Box::new(Rust)),
    )
};

struct Rust;

impl Command for Rust {
    fn run(&self, _: &mut Context) -> Result<Reply> {
        refuse(
            "`rust` works only at the `dam` prompt",
            "in a script or a notebook, write Rust in a program or a cell",
        )
    }
}
