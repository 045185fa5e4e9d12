//! `bake DIR`, `bake FILE.gguf`

use crate::Bake;
use crate::Result;

use super::Verb;
use super::arguments::{Arguments, at_home, bytes};
use super::context::{Context, Latest, Reply, refuse};
use super::export::{Code, fields, path};

pub const VERB: Verb = Verb {
    name: "bake",
    usage: "bake DIR|FILE.gguf [dtype=f32|f16|bf16|q8_0] [shard=5GB] [--force]",
    about: "write the merge as a Hugging Face checkpoint, or as a GGUF file (which q8_0 is for); --force replaces one that is there",
    example: "bake merged",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &["dtype", "shard"], &["--force"])?;
    let mut options = Bake { force: arguments.force(), ..Bake::default() };
    for (key, value) in &arguments.pairs {
        match *key {
            "dtype" => options.dtype = Some((*value).to_owned()),
            _ => options.shard_bytes = bytes("shard", value)?,
        }
    }
    let latest = context.latest()?;
    let directory = at_home(arguments.word(VERB.usage)?);
    check_options(&directory, &arguments.pairs)?;
    let (written, untrained) = match latest {
        Latest::Dam(dam) => {
            let written = dam.bake_with(directory, &options)?;
            context.is_saved();
            (written, dam.steps() == 0)
        }
        Latest::Merged(merged) => (merged.bake_with(directory, &options)?, false),
    };
    let start = if untrained { "not trained yet: this is the merge as it was wrapped" } else { "" };
    Ok(Reply::written(&written).and(start))
}

/// An error where `pairs` do not go with the place that is written.
///
/// # Errors
/// A GGUF file in shards, blocks in a directory.
pub(super) fn check_options(place: &str, pairs: &[(&str, &str)]) -> Result<()> {
    let is_gguf = place.to_lowercase().ends_with(".gguf");
    let has = |key: &str| pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
    match (is_gguf, has("shard"), has("dtype")) {
        (true, Some(_), _) => refuse("`shard` is for directories, a GGUF file is one file", "leave it out"),
        (false, _, Some("q8_0")) => refuse("`q8_0` is for a GGUF file", "name one: bake FILE.gguf dtype=q8_0"),
        _ => Ok(()),
    }
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &["dtype", "shard"], &["--force"])?;
    let latest = code.latest()?;
    code.show(format!("{latest}.{}?", written(arguments.word(VERB.usage)?, &arguments.pairs)?));
    Ok(())
}

/// Baking to `directory` in Rust, with the `dtype` and `shard` of `pairs`. What was baked is baked again.
pub(super) fn written(directory: &str, pairs: &[(&str, &str)]) -> Result<String> {
    let mut given = Vec::new();
    for (key, value) in pairs {
        match *key {
            "dtype" => given.push(("dtype", format!("Some({value:?}.into())"))),
            "shard" => given.push(("shard_bytes", bytes("shard", value)?.to_string())),
            _ => {}
        }
    }
    given.push(("force", "true".into()));
    let options = fields("Bake", &given, (given.len() < 3).then_some("Bake::default()"));
    Ok(format!("bake_with({}, &{options})", path(directory)))
}
