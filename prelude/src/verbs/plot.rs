//! `plot WHAT [TENSOR] [FILE]`

use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, at_home};
use super::context::{Context, Latest, Reply, refuse};
use crate::Result;
use crate::show::Figure;

pub const VERB: Verb = Verb {
    name: "plot",
    usage: "plot loss|coefficients|histogram|distances|lean [TENSOR] [FILE.svg|FILE.png]",
    about: "a picture, here or in a file: losses, coefficients by layer or of a tensor, how far sources are apart, where it leans",
    example: "plot coefficients layers.1.mlp.up_proj picture.svg",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let is_file = |word: &&str| Figure::FORMATS.iter().any(|end| word.to_lowercase().ends_with(end));
    let (files, words): (Vec<&str>, Vec<&str>) = arguments.words.iter().copied().partition(is_file);
    if words.is_empty() || files.len() > 1 {
        return refuse("something is missing, or there are too many words", format!("usage: {}", VERB.usage));
    }
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
        Some(file) => {
            let written = figure.save(at_home(file))?;
            let fields = json!({"path": written.path, "files": written.files, "bytes": written.bytes});
            Ok(Reply::new(&written, fields))
        }
        None => {
            let text = figure.text(width(), false);
            let fields = json!({"text": text});
            Ok(Reply { text, ..Reply::shown(&figure, fields) })
        }
    }
}

/// The terminal's columns, or 80 where there is none.
pub(super) fn width() -> usize {
    console::Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns)).clamp(40, 160)
}
