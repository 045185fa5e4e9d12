//! Limits for chat templates, which come from untrusted models. minijinja's fuel bounds the number
//! of instructions and the bytes of values; this module bounds the rest: Python string methods,
//! `tojson`, and the length of the output.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use minijinja::formatting::{self, FormatStyle};
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;

/// The fuel for one rendering, plus an amount per message and per byte of the conversation. An
/// instruction costs one unit, and so do 64 bytes of output. Real templates use a tenth of it.
const FUEL: u64 = 200_000;
const FUEL_OF_MESSAGE: u64 = 1000;
const FUEL_OF_BYTE: u64 = 4;

/// The maximum bytes of output: `ADDED`, plus `TIMES` the size of the conversation.
const ADDED: usize = 1 << 20;
const TIMES: usize = 16;

/// The maximum width that `format` pads to.
const WIDTH: usize = 4096;

fn limit_error(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// Consumes fuel for `bytes`.
fn consume_fuel(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64 + 1)
}

/// Limits what the templates of `env` may do with conversations of at most this many messages and
/// bytes.
pub(super) fn bound(env: &mut Environment<'_>, messages: usize, bytes: usize) {
    env.set_fuel(Some(FUEL + FUEL_OF_MESSAGE * messages as u64 + FUEL_OF_BYTE * bytes as u64));
    env.set_unknown_method_callback(method);
    env.add_filter("join", join);
    // A list may contain a long text many times.
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            Ok(out.write_str(&text_of(state, value)?)?)
        }
        _ => escape_formatter(out, state, value),
    });
    env.add_filter("string", |state: &State<'_, '_>, value: Value| text_of(state, &value));
    env.add_filter("format", |state: &State<'_, '_>, text: String, args: Rest<Value>| {
        consume_format_fuel(state, &text, &args)?;
        formatting::format(FormatStyle::Printf, &text, &args)
    });
}

/// Python's methods of strings, lists and maps; each consumes fuel for what it reads and creates.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        consume_fuel(state, text.len())?;
        match name {
            "format" => consume_format_fuel(state, text, args)?,
            "title" if args.is_empty() => return Ok(title(text).into()),
            // Like the filter, with the operands swapped.
            "join" => {
                let [items] = args else {
                    return Err(Error::new(ErrorKind::MissingArgument, "join takes one argument"));
                };
                return Ok(Value::from(joined(state, items, text, None)?));
            }
            _ => {}
        }
    }
    unknown_method_callback(state, value, name, args)
}

/// Python's `str.title`: a letter is capitalized unless a letter precedes it.
fn title(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        if within {
            all.extend(c.to_lowercase())
        } else {
            all.extend(c.to_uppercase())
        }
        within = c.is_alphabetic();
    }
    all
}

/// Consumes fuel for formatting `args` with the format `text`, whose widths are limited.
fn consume_format_fuel(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<(), Error> {
    let mut digits = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    if digits.any(|digits| digits.parse::<usize>().map_or(true, |width| width > WIDTH))
        || text.contains('*')
    {
        return Err(limit_error(format!("format with a width above {WIDTH}")));
    }
    let mut longest = WIDTH;
    for arg in args {
        longest = longest.max(match arg.kind() {
            ValueKind::String => arg.as_str().map_or(0, str::len),
            ValueKind::Undefined | ValueKind::None | ValueKind::Bool | ValueKind::Number => 0,
            kind => return Err(limit_error(format!("format of a {kind}"))),
        });
    }
    consume_fuel(state, text.matches(['{', '%']).count().saturating_mul(longest))
}

/// Jinja's `join`, which consumes fuel as it goes.
fn join(
    state: &State<'_, '_>,
    value: &Value,
    between: Option<String>,
    attribute: Option<String>,
    options: Kwargs,
) -> Result<String, Error> {
    let attribute = attribute.or(options.get::<Option<String>>("attribute")?);
    options.assert_all_used()?;
    joined(state, value, &between.unwrap_or_default(), attribute.as_deref())
}

fn joined(
    state: &State<'_, '_>,
    value: &Value,
    between: &str,
    attribute: Option<&str>,
) -> Result<String, Error> {
    let mut all = FueledText::new(state);
    let out_of_fuel = |_| Error::from(ErrorKind::OutOfFuel);
    if value.is_undefined() || value.is_none() {
        return Ok(all.text);
    }
    if let Some(text) = value.as_str() {
        for (i, c) in text.chars().enumerate() {
            all.write_str(if i > 0 { between } else { "" })
                .and_then(|()| all.write_char(c))
                .map_err(out_of_fuel)?;
        }
        return Ok(all.text);
    }
    for (i, item) in value.try_iter()?.enumerate() {
        let item = attribute.map_or(Ok(item.clone()), |attribute| item.get_attr(attribute))?;
        all.write_str(if i > 0 { between } else { "" })
            .and_then(|()| write!(all, "{item}"))
            .map_err(out_of_fuel)?;
    }
    Ok(all.text)
}

/// The text of `value`, as far as the fuel lasts.
fn text_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut all = FueledText::new(state);
    write!(all, "{value}").map_err(|_| Error::from(ErrorKind::OutOfFuel))?;
    Ok(all.text)
}

/// A text buffer that consumes fuel.
pub(super) struct FueledText<'a, 't, 'e> {
    pub text: String,
    state: &'a State<'t, 'e>,
}

impl<'a, 't, 'e> FueledText<'a, 't, 'e> {
    pub fn new(state: &'a State<'t, 'e>) -> Self {
        Self { text: String::new(), state }
    }
}

impl fmt::Write for FueledText<'_, '_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        consume_fuel(self.state, text.len()).map_err(|_| fmt::Error)?;
        self.text.push_str(text);
        Ok(())
    }
}

/// Returns an error if a namespace might be stored in another one, and so in itself, which would
/// make any traversal endless: a variable that holds a namespace may only be followed by `.` or
/// `[`.
pub(super) fn namespaces(template: &str, syntax: SyntaxConfig) -> Result<(), String> {
    let tokens = tokenize(template, false, syntax).map(|token| token.map(|(token, _)| token));
    let tokens: Vec<Token<'_>> = tokens.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let name =
        |i: usize| if let Some(Token::Ident(name)) = tokens.get(i) { Some(*name) } else { None };
    // `{% set NAME = namespace(`, given the index of `namespace`.
    let set =
        |i: usize| {
            let before = i.checked_sub(4).map(|first| &tokens[first..i]);
            let opens = matches!(tokens.get(i + 1), Some(Token::ParenOpen));
            match before {
                Some(
                    [Token::BlockStart, Token::Ident("set"), Token::Ident(set), Token::Assign],
                ) if opens => Some(*set),
                _ => None,
            }
        };
    let own: Vec<&str> =
        (0..tokens.len()).filter(|i| name(*i) == Some("namespace")).filter_map(set).collect();
    for i in 0..tokens.len() {
        let Some(name) = name(i).filter(|_| i == 0 || !matches!(tokens[i - 1], Token::Dot)) else {
            continue;
        };
        let fits = match tokens.get(i + 1) {
            // A keyword argument, or the target of `set`.
            Some(Token::Assign) => true,
            Some(Token::Dot | Token::BracketOpen | Token::Ident("is")) => name != "namespace",
            _ => name == "namespace" && set(i).is_some(),
        };
        if (name == "namespace" || own.contains(&name)) && !fits {
            return Err(format!(
                "it uses the namespace `{name}` for something other than its attributes"
            ));
        }
    }
    Ok(())
}

/// Returns `text`, or an error if it is too long for a conversation of `bytes`.
pub(super) fn rendered(text: String, bytes: usize) -> Result<String, String> {
    if text.len() > ADDED + TIMES * bytes {
        Err(format!("it renders a conversation of {bytes} bytes to {} bytes", text.len()))
    } else {
        Ok(text)
    }
}

/// A byte buffer that consumes fuel.
pub(super) struct FueledBytes<'a, 't, 'e> {
    pub bytes: Vec<u8>,
    state: &'a State<'t, 'e>,
}

impl<'a, 't, 'e> FueledBytes<'a, 't, 'e> {
    pub fn new(state: &'a State<'t, 'e>) -> Self {
        Self { bytes: Vec::new(), state }
    }
}

impl Write for FueledBytes<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        consume_fuel(self.state, bytes.len()).map_err(io::Error::other)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_namespaces_are_errors() {
        let check = |template: &str| namespaces(template, SyntaxConfig::default());
        for good in [
            "{% set ns = namespace(a=1, b='') %}{% set ns.a = ns.a + 1 %}{{ ns.b ~ ns['a'] }}{% if ns is defined %}{% endif %}",
            "namespace x { ns } {# ns #}{{ 'ns namespace' }}{%- set ns = namespace() -%}{{ m.ns }}{{ dict(ns=1) }}",
        ] {
            check(good).unwrap();
        }
        for bad in [
            "{% set ns = namespace() %}{% set ns.x = ns %}",
            "{% set ns = namespace() %}{% set ns.x = [ns] %}",
            "{% set ns = namespace() %}{% for n in [ns] %}{% set n.x = n %}{% endfor %}",
            "{% set ns = namespace() %}{% set f = namespace %}",
            "{% for n in [namespace()] %}{% set n.x = n %}{% endfor %}",
            "{% set a = namespace() %}{% set b = namespace(x=a) %}",
            "{% set f = (namespace) %}{% set a = f() %}",
            "{# {% #}{% set ns = namespace() %}{% set ns.x = ns %}",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
