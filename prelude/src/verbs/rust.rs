//! `rust`, which a terminal has

use super::Verb;
use super::context::{Context, Reply, refuse};
use crate::Result;

pub const VERB: Verb = Verb {
    name: "rust",
    usage: "rust",
    about: "go on in Rust, where the merge is `dam`: to define a scheme, say; `back` returns with what it became",
    example: "rust",
    rust: None,
    run,
};

fn run(_: &mut Context, _: &[String]) -> Result<Reply> {
    refuse("`rust` is for the prompt of `dam`", "in a script or a notebook, write Rust in a program or a cell")
}
