//! Chat templates as transformers renders them: Jinja with trimmed blocks, Python's methods, `tojson` as Python
//! writes JSON. Only the date stands still. A downloaded template has bounded time, memory and output.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind, context};

use super::python_json::to_json;
use super::template_limits;
use crate::checkpoint::Chat;
use crate::guard::{CONTRADICTS, guarded};

/// Characters of the longest template that is rendered; real ones have a tenth of it.
const LONGEST: usize = 1 << 16;

/// Stack for a template that nests as deeply as [`LONGEST`] lets it.
const STACK_BYTES: usize = 1 << 28;

/// The longest of the conversations that a template renders.
pub(super) struct Longest {
    pub messages: usize,
    /// Of all text in it.
    pub bytes: usize,
}

/// What is rendered: messages (objects), and whether an answer is called for after them.
pub(super) struct Request<'a> {
    pub messages: &'a [Value],
    pub tools: Option<&'a Value>,
    pub calls_for_answer: bool,
}

/// Runs `work` with the template compiled, on a stack that is large enough for it.
///
/// # Errors
/// A template that is too long or is not Jinja, or what `work` returns.
pub(super) fn with_template<T: Send>(
    template: &str,
    chat: &Chat,
    longest: Longest,
    work: impl FnOnce(&Template<'_>) -> T + Send,
) -> Result<T, String> {
    if template.len() > LONGEST {
        return Err(format!("it has {} characters, more than any real one", template.len()));
    }
    std::thread::scope(|scope| {
        let compiled = || {
            let text = plain_blocks(template);
            let env = environment(&text, longest)?;
            let compiled = env.template_from_str(&text).map_err(|e| e.to_string())?;
            Ok(work(&Template { compiled, chat }))
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || guarded(compiled));
        thread.map_err(|e| e.to_string())?.join().unwrap_or_else(|_| Err(CONTRADICTS.into()))
    })
}

/// A compiled template.
pub(super) struct Template<'a> {
    compiled: minijinja::Template<'a, 'a>,
    chat: &'a Chat,
}

impl Template<'_> {
    /// The text of a conversation.
    ///
    /// # Errors
    /// What the template says where it refuses it (`raise_exception`), or what fails in it.
    pub fn render(&self, request: &Request<'_>) -> Result<String, String> {
        let Request { messages, tools, calls_for_answer } = request;
        let given = given(messages, *tools);
        let messages = Value::from(messages.to_vec());
        let tools = tools.cloned().unwrap_or_else(|| Value::from(()));
        let known = context! {
            messages, tools, documents => Value::from(()), add_generation_prompt => *calls_for_answer,
            ..Value::from_pairs(self.chat.tokens.iter().map(|(name, token)| (*name, token.as_str())))
        };
        let text = self.compiled.render(known).map_err(|e| reason(&e))?;
        template_limits::rendered(text, given)
    }
}

/// Bytes of all text in a conversation.
pub(super) fn given(messages: &[Value], tools: Option<&Value>) -> usize {
    messages.iter().chain(tools).map(weight).sum()
}

/// Bytes of the texts in `value`, and one for all else.
pub(super) fn weight(value: &Value) -> usize {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        ValueKind::Map => {
            let one = |key: Value| weight(&key) + value.get_item(&key).map_or(0, |item| weight(&item));
            value.try_iter().map_or(0, |keys| keys.map(one).sum())
        }
        ValueKind::Seq => value.try_iter().map_or(0, |items| items.map(|item| weight(&item)).sum()),
        _ => 1,
    }
}

/// What a template says by `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn reason(error: &minijinja::Error) -> String {
    let raised = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Raised>());
    raised.map_or_else(|| error.to_string(), Raised::to_string)
}

/// Where `template` is run, which may have come with a model from anywhere.
fn environment(template: &str, longest: Longest) -> Result<Environment<'static>, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let syntax = syntax.map_err(|e| e.to_string())?;
    template_limits::namespaces(template, syntax.clone())?;
    env.set_syntax(syntax);
    template_limits::bound(&mut env, longest.messages, longest.bytes);
    env.add_function("raise_exception", |text: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(text)))
    });
    env.add_function("strftime_now", date);
    env.add_filter("tojson", to_json);
    Ok(env)
}

/// The day that templates are told, 26 July 2024, in the directives that they use. Data must not become other
/// tokens overnight; the day is the one that Llama 3 itself falls back on.
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
        let message = "strftime_now with a format of more than 256 characters";
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
    }
    Ok(DAY.iter().fold(format, |text, (directive, value)| text.replace(directive, value)))
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
