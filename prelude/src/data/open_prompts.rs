//! Renders conversations up to where the model goes on: as `apply_chat_template` of transformers
//! with `add_generation_prompt`, or with `continue_final_message` where the last message is the
//! assistant's.

use std::result::Result as StdResult;

use minijinja::value::Value;

use super::chat::{message, role, text};
use super::template::{
    ConversationSize, Request, Template, text_bytes, up_to_error, with_template,
};
use crate::checkpoint::Source;
use crate::error::{Error, Result};
use crate::interrupt;

/// Marks where a message is open. The space shows whether the template trims messages.
const MARK: &str = "THE_MODEL_GOES_ON_HERE ";

/// A rendered conversation that the model goes on with.
pub(crate) struct OpenPrompt {
    pub text: String,
    /// Whether system messages were left out because the template refuses them.
    pub without_system: bool,
}

/// Renders `conversations` with the chat template of `source`, which has one. The error of a
/// conversation is returned in its place, and later ones are not rendered.
///
/// # Errors
/// A template that cannot render any conversation, or [`Error::Interrupted`].
pub(crate) fn open_prompts(
    source: &Source,
    conversations: &[Vec<Value>],
) -> Result<Vec<StdResult<OpenPrompt, String>>> {
    let bad = |reason: String| Error::ChatTemplate {
        source_name: source.name().into(),
        file: source.path().into(),
        reason,
    };
    let template = source.chat().template().map_err(bad)?;
    let template = template.ok_or_else(|| bad("there is none".into()))?;
    let longest = ConversationSize {
        messages: conversations.iter().map(Vec::len).max().unwrap_or(0),
        bytes: conversations.iter().map(|all| text_bytes(all, None)).max().unwrap_or(0)
            + MARK.len(),
    };
    let all = with_template(template, source.chat(), longest, |template| {
        let rendered = conversations.iter().map(|conversation| {
            if interrupt::requested() {
                return Err("stopped".into());
            }
            open_prompt(template, conversation)
        });
        up_to_error(rendered)
    });
    interrupt::check()?;
    all.map_err(bad)
}

fn open_prompt(template: &Template<'_>, messages: &[Value]) -> StdResult<OpenPrompt, String> {
    render(template, messages).map(|text| OpenPrompt { text, without_system: false }).or_else(
        |reason| {
            let rest: Vec<Value> =
                messages.iter().filter(|one| role(one) != "system").cloned().collect();
            if rest.len() == messages.len() {
                return Err(reason);
            }
            Ok(OpenPrompt { text: render(template, &rest)?, without_system: true })
        },
    )
}

fn render(template: &Template<'_>, messages: &[Value]) -> StdResult<String, String> {
    let open = messages.last().filter(|last| role(last) == "assistant");
    let Some(begun) = open.and_then(text) else {
        let request = Request { messages, tools: None, add_generation_prompt: true };
        return template.render(&request);
    };
    let marked = message("assistant", &format!("{begun}{MARK}"));
    let marked = [&messages[..messages.len() - 1], &[marked]].concat();
    let request = Request { messages: &marked, tools: None, add_generation_prompt: false };
    let rendered = template.render(&request)?;
    let at = rendered.rfind(MARK.trim_end()).filter(|_| rendered.contains(begun.trim()));
    let at = at.ok_or("the template drops the beginning of the answer")?;
    let (before, rest) = rendered.split_at(at);
    Ok(if rest.starts_with(MARK) { before } else { before.trim_end() }.to_owned())
}
