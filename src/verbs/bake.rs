//! `bake DIR`

use anyhow::Result;
use dam_prelude::{Bake, Error};
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, at_home};
use crate::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "bake",
    usage: "bake DIR [dtype=f32|f16|bf16] [shard=5GB] [--force]",
    about: "write the merge as a Hugging Face checkpoint; --force replaces one that is there",
    example: "bake merged",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &["dtype", "shard"], &["--force"])?;
    let mut options = Bake { force: arguments.force(), ..Bake::default() };
    for (key, value) in &arguments.pairs {
        match *key {
            "dtype" => options.dtype = Some((*value).to_owned()),
            _ => options.shard_bytes = bytes(value)?,
        }
    }
    let dam = context.dam()?;
    let written = dam.bake_with(at_home(arguments.word(VERB.usage)?), &options)?;
    let start = if dam.steps() == 0 { "\nnot trained yet: this is the merge as it was wrapped" } else { "" };
    Ok(Reply::new(format!("{written}{start}"), json!({"path": written.path, "files": written.files, "bytes": written.bytes})))
}

/// A size such as `5GB` or `100MB`.
fn bytes(text: &str) -> Result<u64> {
    let units = [("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("B", 1)];
    let size = units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor).filter(|n| *n > 0)
    });
    Ok(size.ok_or_else(|| Error::bad_value("shard", text, "a size such as 5GB or 500MB"))?)
}
