//! `undo [N]`

use crate::Result;

use super::Verb;
use super::arguments::{Arguments, count};
use super::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "undo",
    usage: "undo [N]",
    about: "undo the last change, or the last N; redo restores them",
    example: "undo",
    rust: None,
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    context.undo(arguments.optional(VERB.usage)?.map_or(Ok(1), |n| count("undo", n))?)?;
    Ok(context.whereabouts())
}
