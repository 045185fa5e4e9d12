//! `ask "PROMPT"`

use serde_json::{Map, Value, json};

use super::Verb;
use super::arguments::Prompt;
use super::context::{Context, Latest, Reply, columns};
use super::export::Code;
use super::generate::by_name;
use crate::Result;
use crate::eval::Likelihood;
use crate::show::{AnswerToken, AskReport};

pub const VERB: Verb = Verb {
    name: "ask",
    usage: "ask \"PROMPT\" [tokens=64]",
    about: "answers of the merge and its sources, the likelihood each source gives the merge's answer, and which source favours each token",
    example: "ask \"What is 12 plus 7?\"",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let Prompt { text: prompt, limit, .. } = Prompt::read(arguments, VERB.usage, &[])?;
    let asked = match context.latest()? {
        Latest::Dam(dam) => dam.ask(&prompt, limit)?,
        Latest::Merged(merged) => merged.ask(&prompt, limit)?,
    };
    let ansi = columns().map(|columns| asked.coloured(columns));
    Ok(Reply { ansi, ..Reply::shown(&asked, fields(&asked)) })
}

fn fields(asked: &AskReport) -> Value {
    let likelihood = |x: &Likelihood| {
        let (nats, perplexity) = (x.nats_per_token(), x.perplexity());
        json!({"tokens": x.tokens, "log_likelihood": x.log_likelihood, "nats_per_token": nats, "perplexity": perplexity})
    };
    let merge = (asked.model.clone(), asked.text.clone());
    let answers: Vec<_> = [merge]
        .into_iter()
        .chain(asked.sources.iter().map(|s| (s.name.clone(), s.answer.clone())))
        .collect();
    let sources: Map<_, _> =
        asked.sources.iter().map(|s| (s.name.clone(), likelihood(&s.likelihood))).collect();
    let token = |token: &AnswerToken| {
        let named = asked.sources.iter().zip(&token.log_probs);
        let log_probs: Map<_, _> =
            named.map(|(source, x)| (source.name.clone(), json!(x))).collect();
        let favours = token.favours.and_then(|i| asked.sources.get(i)).map(|source| &source.name);
        json!({"text": token.text, "favours": favours, "log_probs": log_probs})
    };
    let tokens: Vec<Value> = asked.tokens.iter().map(token).collect();
    json!({
        "text": asked.text, "answers": by_name(&answers), "merge": likelihood(&asked.likelihood), "sources": sources,
        "tokens": tokens, "stopped": asked.stopped, "full": asked.full,
    })
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let Prompt { text, limit, .. } = Prompt::read(arguments, VERB.usage, &[])?;
    let latest = code.latest()?;
    code.show(format!("{latest}.ask({text:?}, {limit})?"));
    Ok(())
}
