//! `generate "PROMPT"`

use serde_json::{Map, Value, json};

use super::prelude::*;
use crate::show::full;

/// The maximum number of tokens of an answer, if none is given.
const TOKENS: usize = 64;

/// The option of verbs that take a prompt.
pub(super) const LIMIT: Opt = option("tokens", Kind::Count("64"));

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[one(Kind::Text("PROMPT"))],
        options: &[LIMIT],
        flags: &["--all"],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "generate",
        "the merge's answer to a prompt (greedy); --all: also its sources' answers",
        "generate \"What is 12 plus 7?\" --all",
        |arguments| {
            let (prompt, limit) = prompt(arguments);
            Ok(Box::new(Generate { prompt, limit, all: arguments.has("--all") }))
        },
    )
};

/// The prompt and the maximum number of tokens of its answer.
pub(super) fn prompt(arguments: &Arguments) -> (String, usize) {
    (arguments.text(0), arguments.count(LIMIT.key).unwrap_or(TOKENS))
}

struct Generate {
    prompt: String,
    limit: usize,
    /// Whether the sources answer too.
    all: bool,
}

impl Command for Generate {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let latest = context.latest()?;
        if !self.all {
            let answer = match latest {
                Latest::Dam(dam) => dam.generate(&self.prompt, self.limit)?,
                Latest::Merged(merged) => merged.generate(&self.prompt, self.limit)?,
            };
            let reply = Reply::new(&answer.text, json!({"text": answer.text, "full": answer.full}));
            return Ok(reply.and(answer.full.map(full).unwrap_or_default()));
        }
        let answers = match latest {
            Latest::Dam(dam) => dam.generate_all(&self.prompt, self.limit)?,
            Latest::Merged(merged) => merged.generate_all(&self.prompt, self.limit)?,
        };
        let json = json!({
            "text": answers.text(), "answers": by_name(&answers.rows), "stopped": answers.stopped,
            "full": answers.full,
        });
        Ok(Reply::shown(&answers, json))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let (latest, how) = (code.latest()?, if self.all { "generate_all" } else { "generate" });
        code.show(format!("{latest}.{how}({:?}, {})?", self.prompt, self.limit));
        Ok(())
    }
}

/// Answers by the names of models. The merge's comes first, and a source of the same name
/// overrides it.
pub(super) fn by_name(rows: &[(String, String)]) -> Map<String, Value> {
    rows.iter().map(|(name, text)| (name.clone(), json!(text))).collect()
}
