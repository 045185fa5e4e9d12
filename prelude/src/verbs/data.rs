//! `data NAME=FILE...`

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::paths::at_home;
use super::prelude::*;
use crate::show::unused_columns;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[some(Kind::SourceData)], ..Signature::EMPTY },
    is_exported: true,
    rebuilds: Some(Rebuild::Sources),
    ..Verb::new(
        "data",
        "set each source's tuning data: JSON lines, CSV, parquet or text, local or hub:org/name",
        "data ja=japanese.jsonl math=builtin:math",
        |arguments| Ok(Box::new(Data { given: arguments.words(0).to_vec() })),
    )
};

struct Data {
    /// `NAME=FILE`.
    given: Vec<String>,
}

/// Splits `NAME=FILE`. A name may contain a `=`, so the `names` of the sources come first.
pub(crate) fn split_source<'a, 'n>(
    text: &'a str,
    mut names: impl Iterator<Item = &'n str>,
) -> Option<(&'a str, &'a str)> {
    let at = |name: &str| text.strip_prefix(name)?.starts_with('=').then_some(name.len());
    let known = names.find_map(at).map(|at| (&text[..at], &text[at + 1..]));
    known.or_else(|| text.split_once('='))
}

impl Data {
    /// The names of sources with their files.
    fn pairs(&self, names: &[String]) -> Vec<(String, String)> {
        let pair = |given: &String| {
            let (name, file) = split_source(given, names.iter().map(String::as_str))?;
            Some((name.to_owned(), at_home(file)))
        };
        self.given.iter().filter_map(pair).collect()
    }
}

impl Command for Data {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let mut models = context.current();
        let names: Vec<String> = models.names().map(str::to_owned).collect();
        let pairs = self.pairs(&names);
        // All files are read before any is taken.
        let examples = match &context.dam {
            Some(dam) => dam.data_of(
                &pairs
                    .iter()
                    .map(|(name, file)| (name.as_str(), file.as_str()))
                    .collect::<Vec<_>>(),
            )?,
            None => {
                let read = pairs.iter().map(|(name, file)| models.data(name, file));
                let examples = read.collect::<Result<_>>()?;
                context.models = models;
                examples
            }
        };
        let models = context.current();
        let lines = pairs.iter().zip(&examples);
        let lines = lines.map(|((name, file), n)| format!("{name}: {n} examples of {file}"));
        let unused: BTreeMap<&str, &[String]> =
            (pairs.iter().map(|(name, _)| (name.as_str(), models.unused_columns(name))))
                .filter(|(_, columns)| !columns.is_empty())
                .collect();
        let lines = lines.chain(unused.iter().map(|(name, columns)| unused_columns(name, columns)));
        let data: Map<_, _> =
            pairs.iter().zip(&examples).map(|((name, _), n)| (name.clone(), json!(n))).collect();
        let mut json = json!({"data": data});
        if !unused.is_empty() {
            json["unused"] = json!(unused);
        }
        Ok(Reply::new(lines.collect::<Vec<_>>().join("\n"), json))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        for (name, file) in self.pairs(code.names()) {
            let whose = if code.has_dam() { "dam" } else { code.models_mut() };
            code.line(format!("{whose}.data({name:?}, {file:?})?;"));
        }
        code.changed();
        Ok(())
    }
}
