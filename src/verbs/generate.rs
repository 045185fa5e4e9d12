//! `generate "PROMPT"`

use anyhow::Result;
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, count};
use crate::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "generate",
    usage: "generate \"PROMPT\" [tokens=64]",
    about: "the merge's likeliest answer to a prompt",
    example: "generate \"What is 12 plus 7?\"",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    // A prompt is any text: only what follows it can be a key.
    let (prompt, rest) = arguments.split_at(arguments.len().min(1));
    let rest = Arguments::read(rest, &["tokens"], &[])?;
    let prompt =
        Arguments { words: prompt.iter().map(String::as_str).chain(rest.words).collect(), pairs: rest.pairs, flags: rest.flags };
    let limit = prompt.pairs.first().map_or(Ok(64), |(key, n)| count(key, n))?;
    let answer = context.dam()?.generate(prompt.word(VERB.usage)?, limit)?;
    Ok(Reply::new(&answer.text, json!({"text": answer.text})))
}
