//! `bake DIR`, `bake FILE.gguf`

use crate::{Bake, Error, Result};

use super::Verb;
use super::arguments::{Arguments, at_home, bytes, count};
use super::context::{Context, Latest, Reply, refuse};
use super::export::{Code, fields, path};

pub const VERB: Verb = Verb {
    name: "bake",
    usage: "bake DIR|FILE.gguf [dtype=f32|f16|bf16|q8_0] [shard=5GB] [as=adapter] [rank=16] [--force]",
    about: "write the merge as a Hugging Face checkpoint, a LoRA adapter of its base, or a GGUF file (q8_0 is for GGUF); --force replaces an existing one",
    example: "bake merged",
    rust: Some(rust),
    run,
};

/// Keys that say how a merge is written.
pub(super) const KEYS: [&str; 4] = ["dtype", "shard", "as", "rank"];

/// The rank of an adapter where none is given.
const RANK: usize = 16;

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &KEYS, &["--force"])?;
    let options = options(&arguments.pairs, arguments.force())?;
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
        (true, Some(_), _) => {
            refuse("`shard` applies to directories; a GGUF file is a single file", "leave it out")
        }
        (false, _, Some("q8_0")) => {
            refuse("`q8_0` needs a GGUF file", "name one: bake FILE.gguf dtype=q8_0")
        }
        _ => Ok(()),
    }
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &KEYS, &["--force"])?;
    let latest = code.latest()?;
    code.show(format!("{latest}.{}?", written(arguments.word(VERB.usage)?, &arguments.pairs)?));
    Ok(())
}

/// How a merge is to be written, as `pairs` of [`KEYS`] say.
///
/// # Errors
/// Values that are none, or that contradict each other.
pub(super) fn options(pairs: &[(&str, &str)], force: bool) -> Result<Bake> {
    let mut options = Bake { force, ..Bake::default() };
    let given = |key: &str| pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
    match given("as") {
        None | Some("adapter") => {}
        Some(other) => return Err(Error::bad_value("as", other, "adapter")),
    }
    let is_adapter = given("as").is_some();
    if let Some(dtype) = given("dtype") {
        options.dtype = Some(dtype.to_owned());
    }
    match given("shard") {
        Some(_) if is_adapter => {
            return refuse(
                "`shard` applies to checkpoints; an adapter is a single file",
                "leave it out",
            );
        }
        Some(shard) => options.shard_bytes = bytes("shard", shard)?,
        None => {}
    }
    match given("rank") {
        Some(rank) if !is_adapter => {
            return refuse(
                format!("`rank={rank}` is the rank of an adapter, but the output is a checkpoint"),
                format!("add as=adapter: bake DIR as=adapter rank={rank}"),
            );
        }
        Some(rank) => options.adapter = Some(count("rank", rank)?),
        None if is_adapter => options.adapter = Some(RANK),
        None => {}
    }
    Ok(options)
}

/// Baking to `directory` in Rust, as `pairs` of [`KEYS`] say. What was baked is baked again.
pub(super) fn written(directory: &str, pairs: &[(&str, &str)]) -> Result<String> {
    let Bake { dtype, shard_bytes, adapter, .. } = options(pairs, true)?;
    let mut given = Vec::new();
    given.extend(dtype.map(|dtype| ("dtype", format!("Some({dtype:?}.into())"))));
    given.extend(
        (shard_bytes != Bake::default().shard_bytes)
            .then(|| ("shard_bytes", shard_bytes.to_string())),
    );
    given.extend(adapter.map(|rank| ("adapter", format!("Some({rank})"))));
    given.push(("force", "true".into()));
    let options = fields("Bake", &given, Some("Bake::default()"));
    Ok(format!("bake_with({}, &{options})", path(directory)))
}
