//! Renders conversations with the model's chat template, or without one as one line per message.

use minijinja::value::{Value, ValueKind};

use super::python_text;
use super::template::{ConversationSize, Request, text_bytes, up_to_error, with_template};
use crate::checkpoint::{Chat, Source};
use crate::error::{Error, Result};
use crate::interrupt;

/// A conversation that ends with the answer to learn.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    /// Messages as objects, with all their keys: `role`, `content`, `tool_calls`, ...
    pub messages: Vec<Value>,
    /// The number of messages before the answer.
    pub prompt: usize,
    /// The tools that the template presents to the model.
    pub tools: Option<Value>,
}

/// A rendered conversation.
pub(crate) struct Rendered {
    /// The text before the answer, with the generation prompt.
    pub prompt: String,
    /// The whole text.
    pub whole: String,
    /// The byte offset in `whole` where the answer begins: after the prompt, or where `whole`
    /// departs from it, because the generation prompt may contain more than the answer begins with
    /// (such as `<think>`).
    pub answer: usize,
}

impl Rendered {
    fn new(prompt: String, whole: String) -> Self {
        let common = prompt
            .chars()
            .zip(whole.chars())
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum();
        Self { prompt, whole, answer: common }
    }
}

/// A message of plain text.
pub(crate) fn message(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}

/// The role of a message.
pub(super) fn role(message: &Value) -> String {
    message
        .get_attr("role")
        .ok()
        .and_then(|role| role.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The text of a message: its `content`, or the concatenated texts of its parts; `None` if it has
/// none.
pub(super) fn text(message: &Value) -> Option<String> {
    let content = message.get_attr("content").ok()?;
    match content.kind() {
        ValueKind::Seq => {
            let parts = content.try_iter().ok()?;
            Some(
                parts
                    .filter_map(|part| part.get_attr("text").ok()?.as_str().map(str::to_owned))
                    .collect(),
            )
        }
        ValueKind::Undefined | ValueKind::None => None,
        _ => Some(content.to_string()),
    }
}

/// Renders conversations with the chat template of `source`: `tool_use`, if there is one, for a
/// conversation with tools, otherwise the default. Without a template, a conversation becomes one
/// line per message. The error of a conversation is returned in its place, and later conversations
/// are not rendered.
///
/// # Errors
/// A template that cannot render any conversation.
pub(crate) fn render(
    source: &Source,
    conversations: &[&Conversation],
) -> Result<Vec<std::result::Result<Rendered, String>>> {
    let rendered = render_by(source.chat(), conversations);
    interrupt::check()?;
    let bad = |reason: String| Error::ChatTemplate {
        source_name: source.name().into(),
        file: source.path().into(),
        reason,
    };
    rendered.map_err(bad)
}

/// [`render`] with any templates.
pub(super) fn render_by(
    chat: &Chat,
    conversations: &[&Conversation],
) -> std::result::Result<Vec<std::result::Result<Rendered, String>>, String> {
    let mut rendered = Vec::with_capacity(conversations.len());
    // Conversations that share a template are rendered together: compiling it takes longer than
    // rendering.
    for run in conversations.chunk_by(|a, b| a.tools.is_some() == b.tools.is_some()) {
        let template = if run[0].tools.is_some() { chat.tool_template() } else { chat.template() };
        match template? {
            None => rendered.extend(run.iter().map(|conversation| render_plain(conversation))),
            Some(template) => {
                let messages =
                    run.iter().map(|conversation| conversation.messages.len()).max().unwrap_or(0);
                let bytes = run
                    .iter()
                    .map(|conversation| {
                        text_bytes(&conversation.messages, conversation.tools.as_ref())
                    })
                    .max()
                    .unwrap_or(0);
                rendered.extend(with_template(
                    template,
                    chat,
                    ConversationSize { messages, bytes },
                    |template| render_all(template, run),
                )?);
            }
        }
        if rendered.last().is_some_and(std::result::Result::is_err) {
            break;
        }
    }
    Ok(rendered)
}

/// Keys that some conversations have but their template never reads.
pub(super) fn ignored_by_template(
    source: &Source,
    conversations: &[&Conversation],
) -> Vec<&'static str> {
    let Ok((Some(plain), Some(tool_use))) =
        source.chat().template().and_then(|t| Ok((t, source.chat().tool_template()?)))
    else {
        return Vec::new();
    };
    let has = |name: &str, conversation: &Conversation| match name {
        "tools" => conversation.tools.as_ref().is_some_and(Value::is_true),
        name => conversation
            .messages
            .iter()
            .any(|message| message.get_attr(name).is_ok_and(|value| value.is_true())),
    };
    let is_lost = |name: &&str| {
        let mut conversations = conversations.iter().filter(|conversation| has(name, conversation));
        conversations.any(|conversation| {
            !(if conversation.tools.is_some() { tool_use } else { plain }).contains(name)
                && !is_rendered(source, conversation, name)
        })
    };
    ["tools", "tool_calls"].into_iter().filter(is_lost).collect()
}

/// Whether a template that does not mention the key `name` of messages still renders it, as part of
/// whole messages.
fn is_rendered(source: &Source, conversation: &Conversation, name: &str) -> bool {
    let without = |message: &Value| -> Value {
        let keys =
            message.try_iter().into_iter().flatten().filter(|key| key.as_str() != Some(name));
        Value::from_pairs(
            keys.filter_map(|key| Some((key.as_str()?.to_owned(), message.get_item(&key).ok()?))),
        )
    };
    let filled = fill_content(conversation);
    let conversation = filled.as_ref().unwrap_or(conversation);
    let other = Conversation {
        messages: conversation.messages.iter().map(without).collect(),
        tools: conversation.tools.clone(),
        ..*conversation
    };
    let whole = |conversation: &Conversation| {
        render(source, &[conversation]).ok()?.pop()?.ok().map(|rendered| rendered.whole)
    };
    whole(conversation) != whole(&other)
}

/// `conversation` with empty content added to messages that only call tools; `None` if there are
/// none.
fn fill_content(conversation: &Conversation) -> Option<Conversation> {
    let has = |message: &Value, name: &str| {
        message.get_attr(name).is_ok_and(|value| !value.is_undefined() && !value.is_none())
    };
    let lacks = |message: &Value| has(message, "tool_calls") && !has(message, "content");
    with_contents(conversation, |message| lacks(message).then(String::new))
}

/// `conversation` with the texts of each content that is a list of parts as one text; `None` if
/// there is no such list, or one with parts other than text.
fn join_parts(conversation: &Conversation) -> Option<Conversation> {
    let is_text = |part: &Value| part.get_attr("text").is_ok_and(|text| text.as_str().is_some());
    let all_text =
        |content: &Value| content.try_iter().is_ok_and(|mut all| all.all(|part| is_text(&part)));
    let mut lists = conversation.messages.iter().filter_map(parts);
    if !lists.all(|content| all_text(&content)) {
        return None;
    }
    with_contents(conversation, |message| parts(message).and_then(|_| text(message)))
}

/// The content of a message if it is a list of parts.
fn parts(message: &Value) -> Option<Value> {
    message.get_attr("content").ok().filter(|content| content.kind() == ValueKind::Seq)
}

/// `conversation` with the contents that `replace` returns; `None` if it returns none.
fn with_contents(
    conversation: &Conversation,
    replace: impl Fn(&Value) -> Option<String>,
) -> Option<Conversation> {
    let mut replaced = false;
    let one = |message: &Value| {
        let Some(content) = replace(message) else { return message.clone() };
        replaced = true;
        let keys = message.try_iter().into_iter().flatten();
        let own =
            keys.filter_map(|key| Some((key.as_str()?.to_owned(), message.get_item(&key).ok()?)));
        Value::from_pairs(own.chain([("content".to_owned(), Value::from(content))]))
    };
    let messages = conversation.messages.iter().map(one).collect();
    replaced.then(|| Conversation { messages, tools: conversation.tools.clone(), ..*conversation })
}

fn render_all(
    template: &super::template::Template<'_>,
    conversations: &[&Conversation],
) -> Vec<std::result::Result<Rendered, String>> {
    let one = |conversation: &&Conversation| {
        if interrupt::requested() {
            return Err("stopped".into());
        }
        let before = &conversation.messages[..conversation.prompt];
        let tools = conversation.tools.as_ref();
        // A conversation that continues an assistant message needs no generation prompt.
        let add_generation_prompt = before.last().is_none_or(|last| role(last) != "assistant");
        let prompt =
            template.render(&Request { messages: before, tools, add_generation_prompt })?;
        let whole = template.render(&Request {
            messages: &conversation.messages,
            tools,
            add_generation_prompt: false,
        })?;
        let rendered = Rendered::new(prompt, whole);
        if rendered.answer > 0 || rendered.prompt.is_empty() {
            Ok(rendered)
        } else {
            Err("the rendered conversation does not begin with the rendered prompt".into())
        }
    };
    // Templates that concatenate `content` fail on messages that only call tools, in transformers
    // too: retry with empty content.
    let one = |conversation: &&Conversation| {
        one(conversation).or_else(|error| {
            fill_content(conversation).map_or(Err(error), |conversation| one(&&conversation))
        })
    };
    // Templates that take `content` as text fail on lists of parts, or print them as Python does:
    // retry with the texts of the parts.
    let one = |conversation: &&Conversation| {
        let rendered = one(conversation);
        let printed = |rendered: &Rendered| {
            let mut lists = conversation.messages.iter().filter_map(parts);
            lists.any(|content| rendered.whole.contains(&python_text::text(&content)))
        };
        if rendered.as_ref().is_ok_and(|rendered| !printed(rendered)) {
            return rendered;
        }
        join_parts(conversation).map_or(rendered, |conversation| one(&&conversation))
    };
    up_to_error(conversations.iter().map(one))
}

fn render_plain(conversation: &Conversation) -> std::result::Result<Rendered, String> {
    if conversation.tools.is_some() {
        return Err("it has tools, but the model has no chat template to render them".into());
    }
    let line = |message: &Value| match text(message) {
        Some(text) => Ok(text),
        None => Err(format!(
            "a message of `{}` has no text, and the model has no chat template to render its other keys",
            role(message)
        )),
    };
    let lines =
        conversation.messages.iter().map(line).collect::<std::result::Result<Vec<_>, String>>()?;
    let prompt: String =
        lines[..conversation.prompt].iter().flat_map(|text| [text, "\n"]).collect();
    let whole = format!("{prompt}{}", lines[conversation.prompt..].join("\n"));
    Ok(Rendered::new(prompt, whole))
}
