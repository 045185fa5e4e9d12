//! `rust`, which a terminal has

use super::Verb;
use super::context::{Context, Reply, refuse};
use crate::Result;

pub const VERB: Verb = Verb {
    name: "rust",
    usage: "rust",
    about: "continue in Rust with the merge as `dam`, for example to define a scheme; `back` returns with the changed merge",
    example: "rust",
    rust: None,
    run,
};

fn run(_: &mut Context, _: &[String]) -> Result<Reply> {
    refuse(
        "`rust` is for the prompt of `dam`",
        "in a script or a notebook, write Rust in a program or a cell",
    )
}
