//! Conversations as a model was tuned to read them: through its chat template, or without one a line per message.

use minijinja::value::{Value, ValueKind};

use super::template::{Longest, Request, given, with_template};
use crate::checkpoint::{Chat, Source};
use crate::error::{Error, Result};
use crate::interrupt;

/// A conversation that ends with its answer.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    /// Messages as objects, with all their keys: `role`, `content`, `tool_calls`, ...
    pub messages: Vec<Value>,
    /// How many of them come before the answer.
    pub prompt: usize,
    /// What the template is told that the model can call.
    pub tools: Option<Value>,
}

/// A conversation as text.
pub(crate) struct Exchange {
    /// All before the answer, with what calls for it.
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

/// A message of plain text.
pub(crate) fn message(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}

/// The role of a message.
pub(super) fn role(message: &Value) -> String {
    message.get_attr("role").ok().and_then(|role| role.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The text of a message: its `content`, or the texts of its parts; none where it has none.
pub(super) fn text(message: &Value) -> Option<String> {
    let content = message.get_attr("content").ok()?;
    match content.kind() {
        ValueKind::Seq => {
            let parts = content.try_iter().ok()?;
            Some(parts.filter_map(|part| part.get_attr("text").ok()?.as_str().map(str::to_owned)).collect())
        }
        ValueKind::Undefined | ValueKind::None => None,
        _ => Some(content.to_string()),
    }
}

/// The talks as text, through the template of `source` that fits each: `tool_use` for one with tools where there is
/// one, else the default. Without a template, a line per message. What is wrong with a talk is told in its place,
/// and none after it is rendered.
///
/// # Errors
/// A template that does not render any talk.
pub(crate) fn render(source: &Source, talks: &[&Talk]) -> Result<Vec<std::result::Result<Exchange, String>>> {
    let rendered = render_by(source.chat(), talks);
    interrupt::check()?;
    let bad = |reason: String| Error::ChatTemplate {
        source_name: source.name().into(),
        file: source.path().into(),
        reason: cut(reason),
    };
    Ok(rendered.map_err(bad)?.into_iter().map(|one| one.map_err(cut)).collect())
}

/// What is said of a template, which may itself say it.
fn cut(reason: String) -> String {
    const CHARACTERS: usize = 500;
    reason.chars().take(CHARACTERS).collect()
}

/// [`render`] by a template from anywhere.
pub(super) fn render_by(chat: &Chat, talks: &[&Talk]) -> std::result::Result<Vec<std::result::Result<Exchange, String>>, String> {
    let mut rendered = Vec::with_capacity(talks.len());
    // Talks that share a template are rendered in one go: to compile one takes longer than to run it.
    for run in talks.chunk_by(|a, b| a.tools.is_some() == b.tools.is_some()) {
        let template = if run[0].tools.is_some() { chat.tool_template() } else { chat.template() };
        match template? {
            None => rendered.extend(run.iter().map(|talk| plain(talk))),
            Some(template) => {
                let messages = run.iter().map(|talk| talk.messages.len()).max().unwrap_or(0);
                let bytes = run.iter().map(|talk| given(&talk.messages, talk.tools.as_ref())).max().unwrap_or(0);
                rendered.extend(with_template(template, chat, Longest { messages, bytes }, |template| all(template, run))?);
            }
        }
        if rendered.last().is_some_and(std::result::Result::is_err) {
            break;
        }
    }
    Ok(rendered)
}

/// What some of the talks have and the template that renders them never asks for.
pub(super) fn unknown_to_template(source: &Source, talks: &[&Talk]) -> Vec<&'static str> {
    let Ok((Some(plain), Some(tool_use))) = source.chat().template().and_then(|t| Ok((t, source.chat().tool_template()?))) else {
        return Vec::new();
    };
    let has = |name: &str, talk: &Talk| match name {
        "tools" => talk.tools.as_ref().is_some_and(Value::is_true),
        name => talk.messages.iter().any(|message| message.get_attr(name).is_ok_and(|value| value.is_true())),
    };
    let is_lost = |name: &&str| {
        let mut talks = talks.iter().filter(|talk| has(name, talk));
        talks.any(|talk| !(if talk.tools.is_some() { tool_use } else { plain }).contains(name) && !is_seen(source, talk, name))
    };
    ["tools", "tool_calls"].into_iter().filter(is_lost).collect()
}

/// Whether a template that does not name the key `name` of messages writes it all the same, as part of whole messages.
fn is_seen(source: &Source, talk: &Talk, name: &str) -> bool {
    let without = |message: &Value| -> Value {
        let keys = message.try_iter().into_iter().flatten().filter(|key| key.as_str() != Some(name));
        Value::from_pairs(keys.filter_map(|key| Some((key.as_str()?.to_owned(), message.get_item(&key).ok()?))))
    };
    let filled = with_content(talk);
    let talk = filled.as_ref().unwrap_or(talk);
    let other = Talk { messages: talk.messages.iter().map(without).collect(), tools: talk.tools.clone(), ..*talk };
    let whole = |talk: &Talk| render(source, &[talk]).ok()?.pop()?.ok().map(|exchange| exchange.whole);
    whole(talk) != whole(&other)
}

/// `talk` with an empty content where a message that calls tools has none; none where no message is so.
fn with_content(talk: &Talk) -> Option<Talk> {
    let has = |message: &Value, name: &str| message.get_attr(name).is_ok_and(|value| !value.is_undefined() && !value.is_none());
    let lacks = |message: &Value| has(message, "tool_calls") && !has(message, "content");
    let filled = |message: &Value| match lacks(message) {
        true => {
            let keys = message.try_iter().into_iter().flatten();
            let own = keys.filter_map(|key| Some((key.as_str()?.to_owned(), message.get_item(&key).ok()?)));
            Value::from_pairs(own.chain([("content".to_owned(), Value::from(""))]))
        }
        false => message.clone(),
    };
    let any = talk.messages.iter().any(lacks);
    any.then(|| Talk { messages: talk.messages.iter().map(filled).collect(), tools: talk.tools.clone(), ..*talk })
}

fn all(template: &super::template::Template<'_>, talks: &[&Talk]) -> Vec<std::result::Result<Exchange, String>> {
    let mut failed = false;
    let one = |talk: &&Talk| {
        if interrupt::requested() {
            return Err("stopped".into());
        }
        let before = &talk.messages[..talk.prompt];
        let tools = talk.tools.as_ref();
        // After an answer that is begun, nothing calls for one.
        let calls_for_answer = before.last().is_none_or(|last| role(last) != "assistant");
        let prompt = template.render(&Request { messages: before, tools, calls_for_answer })?;
        let whole = template.render(&Request { messages: &talk.messages, tools, calls_for_answer: false })?;
        let exchange = Exchange::new(prompt, whole);
        match exchange.answer > 0 || exchange.prompt.is_empty() {
            true => Ok(exchange),
            false => Err("what it writes for the whole does not begin with what it writes for the prompt".into()),
        }
    };
    // A template that adds to the content of every message has none of one that only calls tools: transformers fails there.
    let one = |talk: &&Talk| one(talk).or_else(|error| with_content(talk).map_or(Err(error), |talk| one(&&talk)));
    let rendered = talks.iter().map(one);
    let until_failed = |one: &std::result::Result<_, _>| !std::mem::replace(&mut failed, one.is_err());
    rendered.take_while(until_failed).collect()
}

fn plain(talk: &Talk) -> std::result::Result<Exchange, String> {
    if talk.tools.is_some() {
        return Err("it has tools, which only a chat template can present, and the model has none".into());
    }
    let line = |message: &Value| match text(message) {
        Some(text) => Ok(text),
        None => Err(format!("a message of `{}` has no text, and the model has no chat template for the rest", role(message))),
    };
    let lines = talk.messages.iter().map(line).collect::<std::result::Result<Vec<_>, String>>()?;
    let prompt: String = lines[..talk.prompt].iter().flat_map(|text| [text, "\n"]).collect();
    let whole = format!("{prompt}{}", lines[talk.prompt..].join("\n"));
    Ok(Exchange::new(prompt, whole))
}
