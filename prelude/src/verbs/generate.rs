//! `generate "PROMPT"`

use crate::Result;
use serde_json::json;

use super::Verb;
use super::arguments::count;
use super::context::{Context, Latest, Reply, refuse};
use super::export::Code;

pub const VERB: Verb = Verb {
    name: "generate",
    usage: "generate \"PROMPT\" [tokens=64]",
    about: "the merge's likeliest answer to a prompt",
    example: "generate \"What is 12 plus 7?\"",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let (prompt, limit) = asked(arguments)?;
    let answer = match context.latest()? {
        Latest::Dam(dam) => dam.generate(&prompt, limit)?,
        Latest::Merged(merged) => merged.generate(&prompt, limit)?,
    };
    Ok(Reply::new(&answer.text, json!({"text": answer.text})))
}

/// The prompt, and how many tokens its answer may have.
fn asked(arguments: &[String]) -> Result<(String, usize)> {
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
    Ok((prompt, limit))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let (prompt, limit) = asked(arguments)?;
    let latest = code.latest()?;
    code.show(format!("{latest}.generate({prompt:?}, {limit})?"));
    Ok(())
}
