//! `plot FIGURE [TENSOR] [FILE]`

use serde_json::json;

use super::paths::at_home;
use super::prelude::*;
use crate::show::Figure;

const FIGURE: Kind = Kind::OneOf(Words {
    what: "figure",
    place: None,
    all: || {
        vec![
            ("loss", "every term over steps"),
            (COEFFICIENTS, "their mean by layer and source, or those of one tensor"),
            (HISTOGRAM, "of all coefficients, or of one tensor's"),
            ("distances", "how far sources are apart, and where their signs conflict"),
            ("lean", "each source's share, layer by layer"),
        ]
    },
});
const COEFFICIENTS: &str = "coefficients";
const HISTOGRAM: &str = "histogram";
const FILE: NewFile = NewFile { place: "FILE", suffixes: &Figure::FORMATS, suggested: Some("") };

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[
            one(FIGURE),
            optional(Kind::Tensor)
                .after(|words| words.iter().any(|word| [COEFFICIENTS, HISTOGRAM].contains(word))),
            optional(Kind::New(FILE)),
        ],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "plot",
        "draw losses, coefficients by layer or of one tensor, distances between sources, or each source's share; here or to a file",
        "plot coefficients layers.1.mlp.up_proj picture.svg",
        |arguments| {
            let words = arguments.word(0).into_iter().chain(arguments.word(1));
            let what = words.collect::<Vec<_>>().join(" ");
            Ok(Box::new(Plot { what, file: arguments.word(2).map(at_home) }))
        },
    )
};

struct Plot {
    /// The figure, and the tensor it is of.
    what: String,
    file: Option<String>,
}

impl Command for Plot {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        context.loaded()?;
        let figure = if context.dam.is_none() && context.merged.is_none() {
            context.models.plot(&self.what)?
        } else {
            match context.latest()? {
                Latest::Dam(dam) => dam.plot(&self.what)?,
                Latest::Merged(merged) => merged.plot(&self.what)?,
            }
        };
        if let Some(file) = &self.file {
            return Ok(Reply::written(&figure.save(file)?));
        }
        let fields = json!({"text": figure.to_string()});
        Ok(Reply { figure: Some(figure.clone()), ..Reply::shown(&figure, fields) })
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let of = if code.is_only_loaded() { code.models() } else { code.latest()? };
        let save = self.file.as_ref().map(|file| format!(".save({file:?})?")).unwrap_or_default();
        code.show(format!("{of}.plot({:?})?{save}", self.what));
        Ok(())
    }
}
