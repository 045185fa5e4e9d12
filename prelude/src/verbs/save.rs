//! `save FILE`

use crate::Result;

use super::Verb;
use super::arguments::{Arguments, at_home};
use super::context::{Context, Reply};
use super::export::{Code, path};

pub const VERB: Verb = Verb {
    name: "save",
    usage: "save FILE",
    about: "keep coefficients, settings, optimiser state and where the sources are",
    example: "save merge.dam.safetensors",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let dam = context.dam()?;
    let written = dam.save(at_home(arguments.word(VERB.usage)?))?;
    context.is_saved();
    Ok(Reply::written(&written))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    code.dam()?;
    let arguments = Arguments::read(arguments, &[], &[])?;
    code.show(format!("dam.save({})?", path(arguments.word(VERB.usage)?)));
    Ok(())
}
