//! `redo [N]`

use crate::Result;

use super::Verb;
use super::arguments::{Arguments, count};
use super::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "redo",
    usage: "redo [N]",
    about: "redo the last undone change, or N changes",
    example: "redo",
    rust: None,
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    context.redo(arguments.optional(VERB.usage)?.map_or(Ok(1), |n| count("redo", n))?)?;
    Ok(context.whereabouts())
}
