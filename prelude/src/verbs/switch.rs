//! `switch NAME|N`

use super::Verb;
use super::arguments::Arguments;
use super::context::{Context, Reply};
use crate::Result;

pub const VERB: Verb = Verb {
    name: "switch",
    usage: "switch NAME|N",
    about: "go to the end of a branch, or to state N",
    example: "switch main",
    rust: None,
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    context.switch(arguments.word(VERB.usage)?)?;
    Ok(context.whereabouts())
}
