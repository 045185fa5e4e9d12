//! The `tojson` filter of chat templates: JSON formatted as in Python.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::template_limits::FueledBytes;

/// Formats `value` as Python's `json.dumps(x, ensure_ascii, indent, separators, sort_keys)` does.
/// Non-ASCII characters are not escaped unless `ensure_ascii` is true.
pub(super) fn to_json(
    state: &State<'_, '_>,
    value: &Value,
    options: Kwargs,
) -> Result<Value, minijinja::Error> {
    let invalid = |e: String| minijinja::Error::new(ErrorKind::BadSerialization, e);
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (ensure_ascii, sort_keys): (Option<bool>, Option<bool>) =
        (options.get("ensure_ascii")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    let value = if sort_keys == Some(true) { sorted(state, value)? } else { value.clone() };
    // With indentation, Python writes no space after commas.
    let comma = if indent.is_some() { "," } else { ", " };
    let (comma, colon) = match separators.as_deref() {
        Some([comma, colon]) => (comma.clone(), colon.clone()),
        Some(_) => return Err(invalid("separators must be two strings".into())),
        None => (comma.into(), ": ".into()),
    };
    let indent = indent.map(|n| " ".repeat(n.min(16)));
    let python = Python {
        indent,
        depth: 0,
        is_filled: false,
        comma,
        colon,
        ensure_ascii: ensure_ascii == Some(true),
    };
    let mut output = FueledBytes::new(state);
    value
        .serialize(&mut Serializer::with_formatter(&mut output, python))
        .map_err(|e| invalid(e.to_string()))?;
    Ok(Value::from_safe_string(
        String::from_utf8(output.bytes).map_err(|e| invalid(e.to_string()))?,
    ))
}

/// `value` with sorted object keys. Each value costs fuel, because a list may contain the same
/// value many times.
fn sorted(state: &State<'_, '_>, value: &Value) -> Result<Value, minijinja::Error> {
    state.consume_fuel(1)?;
    match (value.kind(), value.try_iter()) {
        (ValueKind::Map, Ok(keys)) => {
            let mut keys: Vec<Value> = keys.collect();
            keys.sort();
            let pair = |key: Value| {
                Ok((key.clone(), sorted(state, &value.get_item(&key).unwrap_or_default())?))
            };
            Ok(Value::from_pairs(
                keys.into_iter().map(pair).collect::<Result<Vec<_>, minijinja::Error>>()?,
            ))
        }
        (ValueKind::Seq, Ok(items)) => Ok(items
            .map(|item| sorted(state, &item))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .collect()),
        _ => Ok(value.clone()),
    }
}

/// A JSON formatter with Python's conventions.
struct Python {
    /// The indentation per level, if lines are broken.
    indent: Option<String>,
    depth: usize,
    /// Whether the innermost list or object has any entries.
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

    fn begin_array_value<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
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

    fn begin_object_key<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.colon.as_bytes())
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }

    /// Formats floats as `repr` does: with an exponent below `1e-4` and from `1e16`.
    fn write_f64<W: Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let scientific = format!("{value:e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        match exponent.parse::<i32>().unwrap_or(0) {
            -4..16 => write!(writer, "{value:?}"),
            exponent => write!(
                writer,
                "{digits}e{}{:02}",
                if exponent < 0 { '-' } else { '+' },
                exponent.abs()
            ),
        }
    }

    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            if c.is_ascii() {
                write!(writer, "{c}")?
            } else {
                c.encode_utf16(&mut [0; 2])
                    .iter()
                    .try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?
            }
        }
        Ok(())
    }
}
