//! `plot WHAT [TENSOR] [FILE]`

use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, at_home};
use super::context::{Context, Latest, Reply, refuse};
use super::export::{Code, path};
use crate::Result;
use crate::show::Figure;

pub const VERB: Verb = Verb {
    name: "plot",
    usage: "plot loss|coefficients|histogram|distances|lean [TENSOR] [FILE.svg|FILE.png]",
    about: "draw losses, coefficients by layer or of one tensor, distances between sources, or each source's share; here or to a file",
    example: "plot coefficients layers.1.mlp.up_proj picture.svg",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let (files, words) = sorted(arguments)?;
    let what = words.join(" ");
    context.loaded()?;
    let figure = if context.dam.is_none() && context.merged.is_none() {
        context.models.plot(&what)?
    } else {
        match context.latest()? {
            Latest::Dam(dam) => dam.plot(&what)?,
            Latest::Merged(merged) => merged.plot(&what)?,
        }
    };
    match files.first() {
        Some(file) => Ok(Reply::written(&figure.save(at_home(file))?)),
        None => {
            let fields = json!({"text": figure.to_string()});
            Ok(Reply { figure: Some(figure.clone()), ..Reply::shown(&figure, fields) })
        }
    }
}

/// The file, where there is one, and the other words.
fn sorted(arguments: &[String]) -> Result<(Vec<&str>, Vec<&str>)> {
    let is_file =
        |word: &&str| Figure::FORMATS.iter().any(|end| word.to_lowercase().ends_with(end));
    let arguments = Arguments::read(arguments, &[], &[])?;
    let (files, words): (Vec<&str>, Vec<&str>) = arguments.words.iter().copied().partition(is_file);
    if words.is_empty() || files.len() > 1 {
        return refuse(
            "an argument is missing, or there are too many",
            format!("usage: {}", VERB.usage),
        );
    }
    Ok((files, words))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let (files, words) = sorted(arguments)?;
    let of = if code.is_only_loaded() { code.models() } else { code.latest()? };
    let file = files.first().map(|file| format!(".save({})?", path(file))).unwrap_or_default();
    code.show(format!("{of}.plot({:?})?{file}", words.join(" ")));
    Ok(())
}
