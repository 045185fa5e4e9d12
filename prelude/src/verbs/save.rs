//! `save FILE`

use crate::Result;

use super::Verb;
use super::arguments::{Arguments, at_home};
use super::context::{Context, Reply};
use super::export::{Code, path};

pub const VERB: Verb = Verb {
    name: "save",
    usage: "save FILE [--force]",
    about: "keep coefficients, settings, optimiser state and where the sources are; again in the file that it was kept in last",
    example: "save merge.dam.safetensors",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &["--force"])?;
    let dam = context.dam()?;
    let file = at_home(arguments.word(VERB.usage)?);
    let is_own = context.file.is_some() && context.file == std::path::absolute(&file).ok();
    let written = if arguments.force() || is_own { dam.save(file)? } else { dam.save_new(file)? };
    context.file = Some(written.path.clone());
    context.is_saved();
    Ok(Reply::written(&written))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    code.dam()?;
    let arguments = Arguments::read(arguments, &[], &["--force"])?;
    code.show(format!("dam.save({})?", path(arguments.word(VERB.usage)?)));
    Ok(())
}
