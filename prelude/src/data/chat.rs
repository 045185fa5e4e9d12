//! Chat templates, rendered as transformers renders them: Jinja with trimmed blocks, `tojson` as Python writes
//! JSON, no tools and no documents. Only the date stands still.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, State, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::template_limits::{self, Paid};
use crate::checkpoint::{Chat, Source};
use crate::error::{Error, Result};
use crate::guard::{CONTRADICTS, guarded};
use crate::interrupt;

/// A conversation as the model was tuned to hear it.
pub(crate) struct Exchange {
    /// All before the last answer, with what calls for it.
    pub prompt: String,
    /// All of it.
    pub whole: String,
    /// Where in `whole` the answer begins: after the prompt, or where a template that calls for an answer by
    /// more than an answer begins with (`<think>`) parts from it.
    pub answer: usize,
}

impl Exchange {
    fn new(prompt: String, whole: String) -> Self {
        let common = prompt.chars().zip(whole.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        Self { prompt, whole, answer: common }
    }
}

/// Characters of the longest template that is rendered; real ones have a tenth of it.
const LONGEST: usize = 1 << 16;

/// Stack for a template that nests as deeply as [`LONGEST`] lets it.
const STACK_BYTES: usize = 1 << 28;

/// One turn of a conversation.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Renders conversations, each of which ends with its answer, through the template of `source`; without
/// one, a line a message.
pub(crate) fn render(source: &Source, talks: &[&[Message]]) -> Result<Vec<Exchange>> {
    let Some(template) = source.chat_template() else {
        return Ok(talks.iter().map(|talk| plain(talk)).collect());
    };
    /// Characters of what is said of a template, which may itself say it.
    const SAID: usize = 500;
    let exchanges = render_by(template, source.chat(), talks);
    interrupt::check()?;
    let cut = |reason: String| reason.chars().take(SAID).collect();
    exchanges.map_err(|reason| Error::ChatTemplate { file: source.path().into(), reason: cut(reason) })
}

/// [`render`] by a template from anywhere; or why it does not render.
pub(super) fn render_by(template: &str, chat: &Chat, talks: &[&[Message]]) -> std::result::Result<Vec<Exchange>, String> {
    if template.len() > LONGEST {
        return Err(format!("it has {} characters, more than any real one", template.len()));
    }
    if talks.is_empty() {
        return Ok(Vec::new());
    }
    std::thread::scope(|scope| {
        let work = || guarded(|| exchanges(template, chat, talks));
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        thread.map_err(|e| e.to_string())?.join().unwrap_or_else(|_| Err(CONTRADICTS.into()))
    })
}

fn plain(talk: &[Message]) -> Exchange {
    let (answer, before) = talk.split_last().map_or(("", talk), |(last, before)| (last.content.as_str(), before));
    let prompt: String = before.iter().flat_map(|m| [m.content.as_str(), "\n"]).collect();
    let whole = format!("{prompt}{answer}");
    Exchange::new(prompt, whole)
}

fn exchanges(template: &str, chat: &Chat, talks: &[&[Message]]) -> std::result::Result<Vec<Exchange>, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let syntax = syntax.map_err(|e| e.to_string())?;
    env.set_syntax(syntax.clone());
    let said = |talk: &&[Message]| talk.iter().map(|m| m.role.len() + m.content.len()).sum();
    let longest = (talks.iter().map(|talk| talk.len()).max().unwrap_or(0), talks.iter().map(said).max().unwrap_or(0));
    template_limits::bound(&mut env, longest.0, longest.1);
    env.add_function("raise_exception", |text: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    env.add_function("strftime_now", |format: String| template_limits::date_format(&format).map(|()| date(&format)));
    env.add_filter("tojson", to_json);
    let template = plain_blocks(template);
    template_limits::namespaces(&template, syntax)?;
    let template = env.template_from_str(&template).map_err(|e| e.to_string())?;
    let Chat { bos_token, eos_token, pad_token, unk_token, .. } = chat;
    let render = |messages: &[Message], add_generation_prompt: bool| {
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let talk: Vec<minijinja::Value> = messages.iter().map(message).collect();
        let none = || Value::from(());
        let known = context! {
            messages => talk, add_generation_prompt, bos_token, eos_token, pad_token, unk_token, tools => none(), documents => none(),
        };
        let said = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        template_limits::rendered(template.render(known).map_err(|e| e.to_string())?, said)
    };
    let exchange = |talk: &&[Message]| {
        if interrupt::requested() {
            return Err("stopped".into());
        }
        let before = talk.split_last().map_or(*talk, |(_, before)| before);
        let exchange = Exchange::new(render(before, true)?, render(talk, false)?);
        match exchange.answer > 0 || exchange.prompt.is_empty() {
            true => Ok(exchange),
            false => Err("the exchange does not begin with its prompt".into()),
        }
    };
    talks.iter().map(exchange).collect()
}

/// The day that templates are told, 26 July 2024, in the directives that they use. Data must not become other
/// tokens overnight; the day is the one that Llama 3 itself falls back on.
fn date(format: &str) -> String {
    const DAY: [(&str, &str); 12] = [
        ("%d", "26"),
        ("%-d", "26"),
        ("%b", "Jul"),
        ("%B", "July"),
        ("%m", "07"),
        ("%Y", "2024"),
        ("%y", "24"),
        ("%A", "Friday"),
        ("%a", "Fri"),
        ("%H", "12"),
        ("%M", "00"),
        ("%S", "00"),
    ];
    DAY.iter().fold(format.to_owned(), |text, (directive, value)| text.replace(directive, value))
}

/// `template` with `{% generation %}`, by which transformers marks what an assistant says, as a block that
/// changes nothing.
fn plain_blocks(template: &str) -> String {
    let mut plain = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let Some(length) = rest[at..].find("%}") else { break };
        let tag = &rest[at..at + length];
        let word = tag[2..].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        plain.push_str(&rest[..at]);
        match word {
            "generation" => plain.push_str(&tag.replace(word, "if true")),
            "endgeneration" => plain.push_str(&tag.replace(word, "endif")),
            _ => plain.push_str(tag),
        }
        rest = &rest[at + length..];
    }
    plain.push_str(rest);
    plain
}

/// JSON as Python's `json.dumps` writes it without escaping what is not ASCII; `indent` spaces or one line.
fn to_json(state: &State<'_, '_>, value: &Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut paid = Paid::new(state);
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            value.serialize(&mut Serializer::with_formatter(&mut paid, PrettyFormatter::with_indent(indent.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut paid, Spaced)),
    };
    let invalid = |e: String| minijinja::Error::new(ErrorKind::BadSerialization, e);
    written.map_err(|e| invalid(e.to_string()))?;
    Ok(Value::from_safe_string(String::from_utf8(paid.bytes).map_err(|e| invalid(e.to_string()))?))
}

/// One line, with a space after every comma and colon.
struct Spaced;

impl Spaced {
    fn between<W: Write + ?Sized>(writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl Formatter for Spaced {
    fn begin_array_value<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        Self::between(writer, first)
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        Self::between(writer, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
