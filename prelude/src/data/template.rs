//! Chat templates as transformers renders them: Jinja with trimmed blocks, Python's methods, `tojson` as Python
//! writes JSON. Only the date stands still. A downloaded template has bounded time, memory and output.

use std::fmt;
use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::checkpoint::Chat;

/// Characters of the longest template that is rendered; real ones have a tenth of it.
const LONGEST: usize = 1 << 16;

/// Stack for a template that nests as deeply as [`LONGEST`] lets it.
const STACK_BYTES: usize = 1 << 28;

/// Instructions of one rendering; 64 bytes of text count as one.
const FUEL: u64 = 1_000_000;

/// What a template may write beside 16 times what it is given, in bytes: instructions and lists of tools.
const OUTPUT_BYTES: usize = 1 << 20;

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
    work: impl FnOnce(&Template<'_>) -> T + Send,
) -> Result<T, String> {
    if template.len() > LONGEST {
        return Err(format!("it has {} characters, more than any real one", template.len()));
    }
    std::thread::scope(|scope| {
        let compiled = || {
            let env = environment()?;
            let text = plain_blocks(template);
            let compiled = env.template_from_str(&text).map_err(|e| e.to_string())?;
            Ok(work(&Template { compiled, chat }))
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, compiled);
        thread.map_err(|e| e.to_string())?.join().unwrap_or_else(|_| Err("it contradicts itself".into()))
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
        let messages = Value::from(messages.to_vec());
        let given = weight(&messages) + tools.map_or(0, weight);
        let tools = tools.cloned().unwrap_or_else(|| Value::from(()));
        let known = context! {
            messages, tools, documents => Value::from(()), add_generation_prompt => *calls_for_answer,
            ..Value::from_pairs(self.chat.tokens.iter().map(|(name, token)| (*name, token.as_str())))
        };
        let text = self.compiled.render(known).map_err(|e| reason(&e))?;
        match text.len() <= OUTPUT_BYTES + 16 * given {
            true => Ok(text),
            false => Err(format!("it writes {} bytes for a conversation of {given}", text.len())),
        }
    }
}

/// Bytes of the texts in `value`.
fn weight(value: &Value) -> usize {
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

fn environment() -> Result<Environment<'static>, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| e.to_string())?);
    // A downloaded template may not run for ever.
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(method);
    env.add_function("raise_exception", |text: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(text)))
    });
    env.add_function("strftime_now", date);
    env.add_filter("tojson", to_json);
    Ok(env)
}

/// A method of Python's. A width is a number of characters in memory, so `str.format` takes three digits of it.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, minijinja::Error> {
    let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if name == "format" && value.as_str().is_some_and(|text| digits(text) > 3) {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "a format wider than 999 characters"));
    }
    match (name, value.as_str(), arguments) {
        ("title", Some(text), []) => Ok(title(text).into()),
        _ => unknown_method_callback(state, value, name, arguments),
    }
}

/// Python's `str.title`: a letter is large where none is before it.
fn title(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        match within {
            true => all.extend(c.to_lowercase()),
            false => all.extend(c.to_uppercase()),
        }
        within = c.is_alphabetic();
    }
    all
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

/// JSON as Python's `json.dumps(x, ensure_ascii, indent, separators, sort_keys)` writes it; nothing is escaped that is
/// not ASCII, unless asked for.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let invalid = |e: String| minijinja::Error::new(ErrorKind::BadSerialization, e);
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (ensure_ascii, sort_keys): (Option<bool>, Option<bool>) = (options.get("ensure_ascii")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    let value = if sort_keys == Some(true) { sorted(value) } else { value.clone() };
    // Python ends lines without a space after the comma.
    let comma = if indent.is_some() { "," } else { ", " };
    let (comma, colon) = match separators.as_deref() {
        Some([comma, colon]) => (comma.clone(), colon.clone()),
        Some(_) => return Err(invalid("separators are two texts".into())),
        None => (comma.into(), ": ".into()),
    };
    let indent = indent.map(|n| " ".repeat(n.min(16)));
    let python = Python { indent, depth: 0, is_filled: false, comma, colon, ensure_ascii: ensure_ascii == Some(true) };
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, python)).map_err(|e| invalid(e.to_string()))?;
    Ok(Value::from_safe_string(String::from_utf8(bytes).map_err(|e| invalid(e.to_string()))?))
}

/// `value` with the keys of all its objects in order.
fn sorted(value: &Value) -> Value {
    match (value.kind(), value.try_iter()) {
        (ValueKind::Map, Ok(keys)) => {
            let mut keys: Vec<Value> = keys.collect();
            keys.sort();
            Value::from_pairs(keys.into_iter().map(|key| (key.clone(), sorted(&value.get_item(&key).unwrap_or_default()))))
        }
        (ValueKind::Seq, Ok(items)) => items.map(|item| sorted(&item)).collect(),
        _ => value.clone(),
    }
}

/// Python's way to write JSON.
struct Python {
    /// What a line begins with once for each level, where there are lines.
    indent: Option<String>,
    depth: usize,
    /// Whether the innermost list or object has anything in it.
    is_filled: bool,
    comma: String,
    colon: String,
    ensure_ascii: bool,
}

impl Python {
    fn open<W: Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_filled = false;
        writer.write_all(bracket)
    }

    fn close<W: Write + ?Sized>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.is_filled {
            self.line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn next<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.comma.as_bytes())?;
        }
        self.line(writer)
    }

    fn line<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }
}

impl Formatter for Python {
    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.colon.as_bytes())
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }

    /// Digits as `repr` writes them: with an exponent below `1e-4` and from `1e16` on.
    fn write_f64<W: Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let scientific = format!("{value:e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        match exponent.parse::<i32>().unwrap_or(0) {
            -4..16 => write!(writer, "{value:?}"),
            exponent => write!(writer, "{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
        }
    }

    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            match c.is_ascii() {
                true => write!(writer, "{c}")?,
                false => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }
}
