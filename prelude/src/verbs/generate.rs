//! `generate "PROMPT"`

use serde_json::{Map, Value, json};

use super::Verb;
use super::arguments::Prompt;
use super::context::{Context, Latest, Reply};
use super::export::Code;
use crate::Result;
use crate::show::full;

pub const VERB: Verb = Verb {
    name: "generate",
    usage: "generate \"PROMPT\" [tokens=64] [--all]",
    about: "the merge's answer to a prompt (greedy); --all: also its sources' answers",
    example: "generate \"What is 12 plus 7?\" --all",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let Prompt { text: prompt, limit, flags } = Prompt::read(arguments, VERB.usage, &["--all"])?;
    let latest = context.latest()?;
    if flags.is_empty() {
        let answer = match latest {
            Latest::Dam(dam) => dam.generate(&prompt, limit)?,
            Latest::Merged(merged) => merged.generate(&prompt, limit)?,
        };
        let reply = Reply::new(&answer.text, json!({"text": answer.text, "full": answer.full}));
        return Ok(reply.and(answer.full.map(full).unwrap_or_default()));
    }
    let answers = match latest {
        Latest::Dam(dam) => dam.generate_all(&prompt, limit)?,
        Latest::Merged(merged) => merged.generate_all(&prompt, limit)?,
    };
    let json = json!({"text": answers.text(), "answers": by_name(&answers.rows), "stopped": answers.stopped, "full": answers.full});
    Ok(Reply::shown(&answers, json))
}

/// Answers by the names of models. The merge's is first, so that a source of the same name has it.
pub(super) fn by_name(rows: &[(String, String)]) -> Map<String, Value> {
    rows.iter().map(|(name, text)| (name.clone(), json!(text))).collect()
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let Prompt { text, limit, flags } = Prompt::read(arguments, VERB.usage, &["--all"])?;
    let (latest, how) =
        (code.latest()?, if flags.is_empty() { "generate" } else { "generate_all" });
    code.show(format!("{latest}.{how}({text:?}, {limit})?"));
    Ok(())
}
