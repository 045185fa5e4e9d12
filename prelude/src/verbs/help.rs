//! `help [VERB|TOPIC]`, and the reference, which is made from the same table.

use serde_json::{Value, json};

use super::prelude::*;
use super::topics::{TOPICS, Topic};
use super::{CHAPTERS, VERBS};

const SUBJECT: Kind = Kind::Either(&[
    Kind::OneOf(Words {
        what: "verb or topic",
        place: Some("VERB"),
        all: || VERBS.iter().map(|verb| (verb.name, verb.about)).collect(),
    }),
    Kind::OneOf(Words {
        what: "verb or topic",
        place: Some("TOPIC"),
        all: || TOPICS.iter().map(|topic| (topic.name, topic.about)).collect(),
    }),
]);

pub const VERB: Verb = Verb {
    signature: Signature { words: &[optional(SUBJECT)], ..Signature::EMPTY },
    needs_nothing: true,
    ..Verb::new("help", "list the verbs, or explain a verb or topic", "help train", |arguments| {
        Ok(Box::new(Help { subject: arguments.word(0).map(str::to_owned) }))
    })
};

struct Help {
    /// A verb, a topic or both.
    subject: Option<String>,
}

impl Command for Help {
    fn run(&self, _: &mut Context) -> Result<Reply> {
        let Some(name) = self.subject.as_deref() else {
            let text = Reply::new(overview(), fields(VERBS.iter().copied(), TOPICS.iter()));
            return Ok(Reply { is_paged: true, ..text });
        };
        let verb = VERBS.iter().copied().find(|verb| verb.name == name);
        let topic = TOPICS.iter().find(|topic| topic.name == name);
        let of_verb =
            verb.map(|v| format!("{}\n  {}\n  example: {}", v.usage(), v.about, v.example));
        let of_topic = topic.map(|t| format!("{}\nexample: {}", (t.text)(), t.example));
        let text: Vec<String> = of_verb.into_iter().chain(of_topic).collect();
        let text = Reply::new(text.join("\n\n"), fields(verb.into_iter(), topic.into_iter()));
        Ok(Reply { is_paged: true, ..text })
    }
}

/// What to type first, the verbs by group, and the topics.
fn overview() -> String {
    let first = VERBS.first().map_or("", |v| v.example);
    let mut lines =
        vec![format!("`help VERB` explains a verb, with an example. To begin:\n  {first}")];
    for verb in VERBS {
        if let Some((_, chapter)) = CHAPTERS.iter().find(|(first, _)| first.name == verb.name) {
            lines.push(format!("\n{chapter}"));
        }
        lines.push(format!("{:9}  {}", verb.name, verb.about));
    }
    lines.push("\ntopics: help TOPIC".into());
    lines.extend(TOPICS.iter().map(|t| format!("{:9}  {}", t.name, t.about)));
    lines.join("\n")
}

fn fields<'a>(
    verbs: impl Iterator<Item = &'static Verb>,
    topics: impl Iterator<Item = &'a Topic>,
) -> Value {
    let verb = |v: &Verb| json!({"name": v.name, "usage": v.usage(), "about": v.about, "example": v.example});
    let topic = |t: &Topic| json!({"name": t.name, "about": t.about, "text": (t.text)(), "example": t.example});
    json!({"verbs": verbs.map(verb).collect::<Vec<_>>(), "topics": topics.map(topic).collect::<Vec<_>>()})
}

/// The table of verbs in Markdown: usage, what it does, an example.
pub fn reference() -> String {
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    let row = |v: &Verb| {
        format!(
            "| {} | {} | {} |\n",
            code(&v.usage()),
            v.about.replace('|', "\\|"),
            code(v.example)
        )
    };
    let rows: String = VERBS.iter().copied().map(row).collect();
    format!("| verb | what it does | for example |\n| --- | --- | --- |\n{rows}")
}
