//! Renders chat templates as transformers does: Jinja with trimmed blocks, Python's methods, and
//! `tojson` with Python's format. The date is fixed. Templates come from downloads, so their time,
//! memory and output are limited.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind, context};

use super::python_json::to_json;
use super::template_limits;
use crate::checkpoint::Chat;
use crate::guard::{CONTRADICTS, guarded};

/// The maximum length of a template in characters; real ones have a tenth of it.
pub(super) const MAX_CHARACTERS: usize = 1 << 16;

/// Stack size in bytes for a template that nests as deeply as [`MAX_CHARACTERS`] allows.
const STACK_BYTES: usize = 1 << 28;

/// The size of the largest conversation that a template renders.
pub(super) struct ConversationSize {
    pub messages: usize,
    /// Bytes of all its text.
    pub bytes: usize,
}

/// What to render: messages (objects), tools, and whether to add a generation prompt.
pub(super) struct Request<'a> {
    pub messages: &'a [Value],
    pub tools: Option<&'a Value>,
    pub add_generation_prompt: bool,
}

/// Compiles `template` and passes it to `work`, on a stack that is large enough.
///
/// # Errors
/// A template that is too long or is not valid Jinja.
pub(super) fn with_template<T: Send>(
    template: &str,
    chat: &Chat,
    longest: ConversationSize,
    work: impl FnOnce(&Template<'_>) -> T + Send,
) -> Result<T, String> {
    if template.len() > MAX_CHARACTERS {
        return Err(format!("it has {} characters, more than any real template", template.len()));
    }
    let compiled = || {
        let text = plain_blocks(template);
        let env = environment(&text, longest)?;
        let compiled = env.template_from_str(&text).map_err(|e| shortened(e.to_string()))?;
        Ok(work(&Template { compiled, chat }))
    };
    on_large_stack(|| guarded(compiled))?
}

/// Runs `work` on a thread whose stack is large enough for a template.
///
/// # Errors
/// The thread does not start, or `work` panics.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        thread.map_err(|e| e.to_string())?.join().map_err(|_| CONTRADICTS.into())
    })
}

/// A compiled template.
pub(super) struct Template<'a> {
    compiled: minijinja::Template<'a, 'a>,
    chat: &'a Chat,
}

impl Template<'_> {
    /// Renders a conversation.
    ///
    /// # Errors
    /// The message of `raise_exception`, or an error in the template.
    pub fn render(&self, request: &Request<'_>) -> Result<String, String> {
        let Request { messages, tools, add_generation_prompt } = request;
        let text_bytes = text_bytes(messages, *tools);
        let messages = Value::from(messages.to_vec());
        let tools = tools.cloned().unwrap_or_else(|| Value::from(()));
        let known = context! {
            messages, tools, documents => Value::from(()), add_generation_prompt => *add_generation_prompt,
            ..Value::from_pairs(self.chat.tokens.iter().map(|(name, token)| (*name, token.as_str())))
        };
        let text = self.compiled.render(known).map_err(|e| reason(&e))?;
        template_limits::rendered(text, text_bytes)
    }
}

/// Bytes of all text in a conversation.
pub(super) fn text_bytes(messages: &[Value], tools: Option<&Value>) -> usize {
    messages.iter().chain(tools).map(value_bytes).sum()
}

/// Bytes of all text in `value`, plus one per other value.
pub(crate) fn value_bytes(value: &Value) -> usize {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        ValueKind::Map => {
            let one = |key: Value| {
                value_bytes(&key) + value.get_item(&key).map_or(0, |item| value_bytes(&item))
            };
            value.try_iter().map_or(0, |keys| keys.map(one).sum())
        }
        ValueKind::Seq => {
            value.try_iter().map_or(0, |items| items.map(|item| value_bytes(&item)).sum())
        }
        _ => 1,
    }
}

/// A message raised by a template's `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn reason(error: &minijinja::Error) -> String {
    let raised =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<Raised>());
    shortened(raised.map_or_else(|| error.to_string(), Raised::to_string))
}

/// Shortens an error: a template may raise one of any length.
fn shortened(reason: String) -> String {
    const CHARACTERS: usize = 500;
    reason.chars().take(CHARACTERS).collect()
}

/// Returns what was rendered up to the first error, with that error.
pub(super) fn up_to_error<T>(
    rendered: impl Iterator<Item = Result<T, String>>,
) -> Vec<Result<T, String>> {
    let mut failed = false;
    rendered.take_while(|one| !std::mem::replace(&mut failed, one.is_err())).collect()
}

/// The sandbox for `template`, which may come from an untrusted model.
fn environment(template: &str, longest: ConversationSize) -> Result<Environment<'static>, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let syntax = syntax.map_err(|e| e.to_string())?;
    template_limits::namespaces(template, syntax.clone())?;
    env.set_syntax(syntax);
    template_limits::bound(&mut env, longest.messages, longest.bytes);
    env.add_function("raise_exception", |text: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception")
            .with_source(Raised(text)))
    });
    env.add_function("strftime_now", date);
    env.add_filter("tojson", to_json);
    Ok(env)
}

/// `strftime_now` with a fixed date, 26 July 2024, and the directives that templates use. The same
/// data must always give the same tokens; Llama 3 falls back on the same date.
fn date(format: String) -> Result<String, minijinja::Error> {
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
    if format.len() > 256 {
        let message = "strftime_now with a format longer than 256 characters";
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
    }
    Ok(DAY.iter().fold(format, |text, (directive, value)| text.replace(directive, value)))
}

/// Replaces `{% generation %}`, which transformers uses to mark assistant text, with a block that
/// has no effect.
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
