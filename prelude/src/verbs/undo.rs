//! `undo [N]`

use crate::Result;

use super::Verb;
use super::arguments::{Arguments, count};
use super::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "undo",
    usage: "undo [N]",
    about: "back to before the last change, or the last N; nothing is lost: redo goes forward again",
    example: "undo",
    rust: None,
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    context.undo(arguments.optional(VERB.usage)?.map_or(Ok(1), |n| count("undo", n))?)?;
    Ok(context.whereabouts())
}
