//! Chat templates, rendered as transformers renders them: Jinja with trimmed blocks.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::checkpoint::{Chat, Source};
use crate::error::{Error, Result};

/// A question put as the model was tuned to hear it, and the whole exchange, which starts with it.
pub(crate) struct Exchange {
    pub prompt: String,
    pub whole: String,
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
    let bad = |reason: String| Error::ChatTemplate { file: source.path().into(), reason };
    if template.len() > LONGEST {
        return Err(bad(format!("it has {} characters, more than any real one", template.len())));
    }
    if talks.is_empty() {
        return Ok(Vec::new());
    }
    let exchanges = std::thread::scope(|scope| {
        let work = || exchanges(template, source.chat(), talks);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        thread.map_err(|e| e.to_string())?.join().unwrap_or_else(|_| Err("it contradicts itself".into()))
    });
    exchanges.map_err(bad)
}

fn plain(talk: &[Message]) -> Exchange {
    let (answer, before) = talk.split_last().map_or(("", talk), |(last, before)| (last.content.as_str(), before));
    let prompt: String = before.iter().flat_map(|m| [m.content.as_str(), "\n"]).collect();
    Exchange { whole: format!("{prompt}{answer}"), prompt }
}

fn exchanges(template: &str, chat: &Chat, talks: &[&[Message]]) -> std::result::Result<Vec<Exchange>, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| e.to_string())?);
    // A downloaded template may not run for ever.
    env.set_fuel(Some(1_000_000));
    env.set_unknown_method_callback(unknown_method_callback);
    env.add_function("raise_exception", |text: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    let template = env.template_from_str(template).map_err(|e| e.to_string())?;
    let Chat { bos_token, eos_token, pad_token, unk_token, .. } = chat;
    let render = |messages: &[Message], add_generation_prompt: bool| {
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let messages: Vec<minijinja::Value> = messages.iter().map(message).collect();
        let known = context! { messages, add_generation_prompt, bos_token, eos_token, pad_token, unk_token };
        template.render(known).map_err(|e| e.to_string())
    };
    let exchange = |talk: &&[Message]| {
        let before = talk.split_last().map_or(*talk, |(_, before)| before);
        let exchange = Exchange { prompt: render(before, true)?, whole: render(talk, false)? };
        match exchange.whole.starts_with(&exchange.prompt) {
            true => Ok(exchange),
            false => Err("the exchange does not begin with its prompt".into()),
        }
    };
    talks.iter().map(exchange).collect()
}
