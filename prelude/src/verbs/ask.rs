//! `ask "PROMPT"`

use serde_json::{Map, Value, json};

use super::generate::{LIMIT, by_name, prompt};
use super::prelude::*;
use super::reply::columns;
use crate::eval::Likelihood;
use crate::show::{AnswerToken, AskReport};

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[one(Kind::Text("PROMPT"))],
        options: &[LIMIT],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "ask",
        "answers of the merge and its sources, the likelihood of the merge's answer under each source, and the source that favours each token",
        "ask \"What is 12 plus 7?\"",
        |arguments| {
            let (prompt, limit) = prompt(arguments);
            Ok(Box::new(Ask { prompt, limit }))
        },
    )
};

struct Ask {
    prompt: String,
    /// The maximum number of tokens of an answer.
    limit: usize,
}

impl Command for Ask {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let report = match context.latest()? {
            Latest::Dam(dam) => dam.ask(&self.prompt, self.limit)?,
            Latest::Merged(merged) => merged.ask(&self.prompt, self.limit)?,
        };
        let ansi = columns().map(|columns| report.coloured(columns));
        Ok(Reply { ansi, ..Reply::shown(&report, json(&report)) })
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let latest = code.latest()?;
        code.show(format!("{latest}.ask({:?}, {})?", self.prompt, self.limit));
        Ok(())
    }
}

fn json(report: &AskReport) -> Value {
    let likelihood = |x: &Likelihood| {
        let (nats, perplexity) = (x.nats_per_token(), x.perplexity());
        json!({"tokens": x.tokens, "log_likelihood": x.log_likelihood, "nats_per_token": nats, "perplexity": perplexity})
    };
    let merge = (report.model.clone(), report.text.clone());
    let answers: Vec<_> = [merge]
        .into_iter()
        .chain(report.sources.iter().map(|s| (s.name.clone(), s.answer.clone())))
        .collect();
    let sources: Map<_, _> =
        report.sources.iter().map(|s| (s.name.clone(), likelihood(&s.likelihood))).collect();
    let token = |token: &AnswerToken| {
        let named = report.sources.iter().zip(&token.log_probs);
        let log_probs: Map<_, _> =
            named.map(|(source, x)| (source.name.clone(), json!(x))).collect();
        let favours = token.favours.and_then(|i| report.sources.get(i)).map(|source| &source.name);
        json!({"text": token.text, "favours": favours, "log_probs": log_probs})
    };
    let tokens: Vec<Value> = report.tokens.iter().map(token).collect();
    json!({
        "text": report.text, "answers": by_name(&answers), "merge": likelihood(&report.likelihood), "sources": sources,
        "tokens": tokens, "stopped": report.stopped, "full": report.full,
    })
}
