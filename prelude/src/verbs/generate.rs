//! `generate "PROMPT"`

use crate::Result;
use serde_json::json;

use super::Verb;
use super::arguments::count;
use super::context::{Context, Latest, Reply, refuse};

pub const VERB: Verb = Verb {
    name: "generate",
    usage: "generate \"PROMPT\" [tokens=64]",
    about: "the merge's likeliest answer to a prompt",
    example: "generate \"What is 12 plus 7?\"",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    // A prompt is any text, quoted or not: only its last word can be a key.
    let (words, limit) = match arguments.split_last() {
        Some((last, words)) if !words.is_empty() && last.starts_with("tokens=") => {
            (words, count("tokens", &last["tokens=".len()..])?)
        }
        _ => (arguments, 64),
    };
    let prompt = words.join(" ");
    if prompt.is_empty() {
        return refuse("there is no prompt", format!("usage: {}", VERB.usage));
    }
    let answer = match context.latest()? {
        Latest::Dam(dam) => dam.generate(&prompt, limit)?,
        Latest::Merged(merged) => merged.generate(&prompt, limit)?,
    };
    Ok(Reply::new(&answer.text, json!({"text": answer.text})))
}
