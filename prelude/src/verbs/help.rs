//! `help [VERB|TOPIC]`, and the reference that is made of the same table.

use crate::Result;
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::context::{Context, Reply};
use super::topics::{TOPICS, Topic};
use super::{VERBS, Verb};
use crate::Error;

pub const VERB: Verb = Verb {
    name: "help",
    usage: "help [VERB|TOPIC]",
    about: "list the verbs, or explain a verb or topic",
    example: "help train",
    rust: None,
    run,
};

/// What verbs are for, each with the first of them; those after it in the table belong to it too.
const CHAPTERS: [(&str, &str); 7] = [
    ("load", "sources, data and settings"),
    ("loss", "train"),
    ("inspect", "inspect"),
    ("merge", "other ways to merge"),
    ("bake", "save and export"),
    ("undo", "undo and branches"),
    ("rust", "other"),
];

fn run(_: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &[])?;
    let Some(name) = arguments.optional(VERB.usage)? else {
        return Ok(Reply::new(overview(), fields(VERBS.iter(), TOPICS.iter())));
    };
    let verb = VERBS.iter().find(|v| v.name == name);
    let topic = TOPICS.iter().find(|t| t.name == name);
    if verb.is_none() && topic.is_none() {
        let known = VERBS.iter().map(|v| v.name).chain(TOPICS.iter().map(|t| t.name));
        return Err(Error::unknown("verb or topic", name, known));
    }
    let of_verb = verb.map(|v| format!("{}\n  {}\n  example: {}", v.usage, v.about, v.example));
    let of_topic = topic.map(|t| format!("{}\nexample: {}", (t.text)(), t.example));
    let text: Vec<String> = of_verb.into_iter().chain(of_topic).collect();
    Ok(Reply::new(text.join("\n\n"), fields(verb.into_iter(), topic.into_iter())))
}

/// What to type first, verbs by chapters, and topics.
fn overview() -> String {
    let first = VERBS.first().map_or("", |v| v.example);
    let mut lines =
        vec![format!("`help VERB` explains a verb, with an example. To begin:\n  {first}")];
    for verb in VERBS {
        if let Some((_, chapter)) = CHAPTERS.iter().find(|(first, _)| *first == verb.name) {
            lines.push(format!("\n{chapter}"));
        }
        lines.push(format!("{:9}  {}", verb.name, verb.about));
    }
    lines.push("\ntopics: help TOPIC".into());
    lines.extend(TOPICS.iter().map(|t| format!("{:9}  {}", t.name, t.about)));
    lines.join("\n")
}

fn fields<'a>(
    verbs: impl Iterator<Item = &'a Verb>,
    topics: impl Iterator<Item = &'a Topic>,
) -> Value {
    let verb = |v: &Verb| json!({"name": v.name, "usage": v.usage, "about": v.about, "example": v.example});
    let topic = |t: &Topic| json!({"name": t.name, "about": t.about, "text": (t.text)(), "example": t.example});
    json!({"verbs": verbs.map(verb).collect::<Vec<_>>(), "topics": topics.map(topic).collect::<Vec<_>>()})
}

/// The table of verbs in Markdown: usage, what it does, an example.
pub fn reference() -> String {
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    let row = |v: &Verb| {
        format!("| {} | {} | {} |\n", code(v.usage), v.about.replace('|', "\\|"), code(v.example))
    };
    let rows: String = VERBS.iter().map(row).collect();
    format!("| verb | what it does | for example |\n| --- | --- | --- |\n{rows}")
}
