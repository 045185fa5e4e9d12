//! `help [VERB]`

use crate::Result;
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::context::{Context, Reply};
use super::{VERBS, Verb, find};

pub const VERB: Verb =
    Verb { name: "help", usage: "help [VERB]", about: "all verbs, or one with an example", example: "help train", run };

fn run(_: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let verbs: Vec<&Verb> = match arguments.optional(VERB.usage)? {
        Some(name) => vec![find(name)?],
        None => VERBS.iter().collect(),
    };
    let text = match verbs.as_slice() {
        [verb] => format!("{}\n  {}\n  example: {}", verb.usage, verb.about, verb.example),
        all => all.iter().map(|v| format!("{:9} {}", v.name, v.about)).collect::<Vec<_>>().join("\n"),
    };
    let json: Vec<Value> =
        verbs.iter().map(|v| json!({"name": v.name, "usage": v.usage, "about": v.about, "example": v.example})).collect();
    Ok(Reply::new(text, json!({"verbs": json})))
}

/// All verbs with an example each, as Markdown: what the README lists.
pub fn reference() -> String {
    let one = |verb: &Verb| format!("- `{}`: {}. `{}`\n", verb.usage, verb.about, verb.example);
    VERBS.iter().map(one).collect()
}
