//! `save FILE`

use crate::Result;

use super::Verb;
use super::arguments::{Arguments, at_home};
use super::context::{Context, Reply, refuse};
use super::export::{Code, path};

pub const VERB: Verb = Verb {
    name: "save",
    usage: "save FILE [--force]",
    about: "save coefficients, settings, optimiser state and source locations to a file; the session's own file is replaced",
    example: "save merge.dam.safetensors",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &["--force"])?;
    let dam = context.dam()?;
    let file = at_home(arguments.word(VERB.usage)?);
    let own = context
        .file
        .as_ref()
        .filter(|(path, _)| std::path::absolute(&file).is_ok_and(|file| file == *path));
    let written = match own {
        _ if arguments.force() => dam.save(file)?,
        Some((path, stamp)) if path.exists() => {
            if stamp.check(path).is_err() {
                let message = format!(
                    "`{}` was changed by another program since this session saved it",
                    path.display()
                );
                return refuse(message, "use another name, or replace it: save FILE --force");
            }
            dam.save(file)?
        }
        _ => dam.save_new(file)?,
    };
    context.is_in(&written.path);
    Ok(Reply::written(&written))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    code.dam()?;
    let arguments = Arguments::read(arguments, &[], &["--force"])?;
    code.show(format!("dam.save({})?", path(arguments.word(VERB.usage)?)));
    Ok(())
}
