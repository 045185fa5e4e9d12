//! `merge METHOD KEY=VALUE... DIR`

use anyhow::Result;
use dam_prelude::methods::{self, METHODS};
use dam_prelude::{Bake, Error};
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, at_home, bytes};
use crate::context::{Context, Reply, refuse};

pub const VERB: Verb = Verb {
    name: "merge",
    usage: "merge linear [weights=1,1,...] [normalize=on|off] [base=off|on] [dtype=f32|f16|bf16] [shard=5GB] DIR [--force]",
    about: "merge the sources by a method that trains nothing, into a Hugging Face checkpoint; any family",
    example: "merge linear weights=1,1,1 average",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let keys: Vec<&str> = ["dtype", "shard"].into_iter().chain(METHODS.iter().flat_map(|m| m.keys.iter().copied())).collect();
    let arguments = Arguments::read(arguments, &keys, &["--force"])?;
    let (name, directory) = match arguments.words.as_slice() {
        [name, directory] => (*name, *directory),
        [name] => {
            methods::find(name)?;
            return refuse("no directory is named", format!("usage: {}", VERB.usage));
        }
        [] => return refuse("no method is named", format!("usage: {}", VERB.usage)),
        _ => return refuse("there are too many words", format!("usage: {}", VERB.usage)),
    };
    let recipe = methods::find(name)?;
    let mut options = Bake { force: arguments.force(), ..Bake::default() };
    let mut parameters = Vec::new();
    for (key, value) in &arguments.pairs {
        match *key {
            "dtype" => options.dtype = Some((*value).to_owned()),
            "shard" => options.shard_bytes = bytes("shard", value)?,
            key if recipe.keys.contains(&key) => parameters.push((key, *value)),
            key => return Err(Error::unknown("key", key, recipe.keys.iter().copied()).into()),
        }
    }
    context.loaded()?;
    let report = context.current().merge(&*(recipe.build)(&parameters)?, at_home(directory), &options)?;
    let written = &report.written;
    let fields = json!({"path": written.path, "files": written.files, "bytes": written.bytes, "copied": report.copied});
    Ok(Reply::new(&report, fields))
}
