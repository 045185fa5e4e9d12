//! Values as Python writes and reads them: `str`, `repr`, `str.strip` and `ast.literal_eval`.

use std::fmt::{self, Write};

use minijinja::value::{Value, ValueKind};

/// The maximum nesting of a literal.
const DEPTH: usize = 64;

/// Python's `str(value)`.
pub(crate) fn text(value: &Value) -> String {
    let mut text = String::new();
    let _ = write_text(&mut text, value);
    text
}

/// Writes Python's `str(value)`.
pub(super) fn write_text(to: &mut impl Write, value: &Value) -> fmt::Result {
    match value.as_str() {
        Some(text) => to.write_str(text),
        None => write_repr(to, value, 0),
    }
}

fn write_repr(to: &mut impl Write, value: &Value, depth: usize) -> fmt::Result {
    if depth > DEPTH {
        return to.write_str("...");
    }
    let items = || value.try_iter().into_iter().flatten().enumerate();
    match value.kind() {
        ValueKind::None => to.write_str("None"),
        ValueKind::Bool => to.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if value.is_integer() => write!(to, "{value}"),
        ValueKind::Number => write_float(to, f64::try_from(value.clone()).unwrap_or(f64::NAN)),
        ValueKind::String => write_string(to, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            to.write_char('[')?;
            for (i, item) in items() {
                to.write_str(if i > 0 { ", " } else { "" })?;
                write_repr(to, &item, depth + 1)?;
            }
            to.write_char(']')
        }
        ValueKind::Map => {
            to.write_char('{')?;
            for (i, key) in items() {
                to.write_str(if i > 0 { ", " } else { "" })?;
                write_repr(to, &key, depth + 1)?;
                to.write_str(": ")?;
                write_repr(to, &value.get_item(&key).unwrap_or_default(), depth + 1)?;
            }
            to.write_char('}')
        }
        _ => write!(to, "{value}"),
    }
}

/// `repr` of a float: the shortest digits, with an exponent below `1e-4` and from `1e16`.
fn write_float(to: &mut impl Write, value: f64) -> fmt::Result {
    if !value.is_finite() {
        return to.write_str(match value {
            x if x.is_nan() => "nan",
            x if x > 0.0 => "inf",
            _ => "-inf",
        });
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => write!(to, "{value:?}"),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(to, "{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

fn write_string(to: &mut impl Write, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    to.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => to.write_str("\\\\")?,
            '\n' => to.write_str("\\n")?,
            '\r' => to.write_str("\\r")?,
            '\t' => to.write_str("\\t")?,
            c if c == quote => write!(to, "\\{c}")?,
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                write!(to, "\\x{:02x}", c as u32)?;
            }
            c if (is_space(c) && c != ' ') || c == '\u{feff}' => {
                write!(to, "\\u{:04x}", c as u32)?;
            }
            c => to.write_char(c)?,
        }
    }
    to.write_char(quote)
}

/// Whether Python's `str.isspace` is true.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// A value as an index: an integer, a truth value, or a float without a fraction.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    match value.kind() {
        ValueKind::Bool => Some(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.as_i64(),
        ValueKind::Number => {
            let float = f64::try_from(value.clone()).ok()?;
            (float.fract() == 0.0 && float.abs() < 1e15).then_some(float as i64)
        }
        _ => None,
    }
}

/// The place that Python's `index` stands for among `count` items: a negative one counts from the
/// end. None before the first item; the place may be behind the last.
pub(crate) fn place(index: i64, count: usize) -> Option<usize> {
    let from_end = || count.checked_sub(index.unsigned_abs() as usize);
    usize::try_from(index).ok().or_else(from_end)
}

/// Python's `ast.literal_eval`; tuples become lists. None if `text` is not a literal, or one of
/// bytes, sets or complex numbers.
pub(crate) fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim_matches([' ', '\t', '\n', '\r']) };
    let value = reader.value(0)?;
    reader.space();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, prefix: &str) -> bool {
        self.space();
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.space();
        if depth > DEPTH {
            return None;
        }
        for (word, value) in
            [("None", Value::from(())), ("True", Value::from(true)), ("False", Value::from(false))]
        {
            if self.take(word) {
                return Some(value);
            }
        }
        match self.rest.chars().next()? {
            '[' => {
                self.take("[");
                self.items("]", depth).map(|(items, _)| Value::from(items))
            }
            '(' => {
                self.take("(");
                let (items, has_comma) = self.items(")", depth)?;
                match items.as_slice() {
                    [one] if !has_comma => Some(one.clone()),
                    _ => Some(Value::from(items)),
                }
            }
            '{' => {
                self.take("{");
                self.pairs(depth)
            }
            '\'' | '"' | 'r' | 'R' | 'u' | 'U' => {
                let mut whole = self.string()?;
                loop {
                    self.space();
                    if !self.rest.starts_with(['\'', '"']) {
                        return Some(Value::from(whole));
                    }
                    whole.push_str(&self.string()?);
                }
            }
            _ => self.number(),
        }
    }

    /// Items up to `close`, and whether a comma follows the last one.
    fn items(&mut self, close: &str, depth: usize) -> Option<(Vec<Value>, bool)> {
        let mut items = Vec::new();
        let mut has_comma = false;
        while !self.take(close) {
            if !items.is_empty() && !has_comma {
                return None;
            }
            items.push(self.value(depth + 1)?);
            has_comma = self.take(",");
        }
        Some((items, has_comma))
    }

    fn pairs(&mut self, depth: usize) -> Option<Value> {
        let mut pairs = Vec::new();
        let mut has_comma = true;
        while !self.take("}") {
            if !has_comma {
                return None;
            }
            let key = self.value(depth + 1)?;
            if !self.take(":") {
                return None;
            }
            pairs.push((key, self.value(depth + 1)?));
            has_comma = self.take(",");
        }
        Some(Value::from_pairs(pairs))
    }

    fn number(&mut self) -> Option<Value> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '+', '-'].contains(&c);
        let end = self.rest.find(|c: char| !is_part(c)).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        let plain = digits.trim_start_matches(['+', '-']).replace('_', "");
        let is_negative = digits.starts_with('-');
        if plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(|b| b.is_ascii_digit()) {
            // Python accepts only zeros after a zero.
            return plain.bytes().all(|b| b == b'0').then(|| Value::from(0));
        }
        if let Ok(integer) = plain.parse::<i64>() {
            return Some(Value::from(if is_negative { -integer } else { integer }));
        }
        // Not `inf` and `nan`.
        let is_float = plain.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        let float: f64 = plain.parse().ok().filter(|_| is_float)?;
        Some(Value::from(if is_negative { -float } else { float }))
    }

    fn string(&mut self) -> Option<String> {
        let is_raw = self.rest.starts_with(['r', 'R']);
        let rest = self.rest.trim_start_matches(['r', 'R', 'u', 'U']);
        if self.rest.len() - rest.len() > 1 {
            return None;
        }
        let quote = ["'''", "\"\"\"", "'", "\""].into_iter().find(|q| rest.starts_with(q))?;
        let mut chars = rest[quote.len()..].chars();
        let mut text = String::new();
        loop {
            if let Some(rest) = chars.as_str().strip_prefix(quote) {
                self.rest = rest;
                return Some(text);
            }
            match chars.next()? {
                '\\' if is_raw => {
                    text.push('\\');
                    text.push(chars.next()?);
                }
                '\\' => text.extend(escape(&mut chars)?),
                '\n' if quote.len() == 1 => return None,
                c => text.push(c),
            }
        }
    }
}

/// The character of an escape sequence after its backslash; none for an escaped line break.
fn escape(chars: &mut std::str::Chars<'_>) -> Option<Option<char>> {
    let c = chars.next()?;
    let width = match c {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => 0,
    };
    if width > 0 {
        let (digits, rest) = chars.as_str().split_at_checked(width)?;
        *chars = rest.chars();
        return Some(Some(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?));
    }
    Some(Some(match c {
        '\n' => return Some(None),
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'v' => '\x0b',
        '\\' | '\'' | '"' => c,
        // Octal numbers, names of characters, and what Python warns of.
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python 3.11 writes them.
    #[test]
    fn values_are_written_as_in_python() {
        let shown = |text: &str| literal(text).map(|value| super::text(&value));
        for (from, to) in [
            ("['a', \"it's\", 'x\"\\'']", "['a', \"it's\", 'x\"\\'']"),
            ("[1, -2, 1.0, 1e16, 0.00001, None, True]", "[1, -2, 1.0, 1e+16, 1e-05, None, True]"),
            ("('a', 'b')", "['a', 'b']"),
            ("('a')", "a"),
            ("'a' \"b\"", "ab"),
            ("{'a': [1], 'b': {}}", "{'a': [1], 'b': {}}"),
            ("[ '\\n\\t\\x41\\u00e9' , ]", "['\\n\\tAé']"),
            ("r'\\d'", "\\d"),
            ("00", "0"),
            ("'''a\nb'''", "a\nb"),
        ] {
            assert_eq!(shown(from).as_deref(), Some(to), "{from}");
        }
        for bad in
            ["", "a", "[1", "[1 2]", "07", "'a", "'a\nb'", "f(x)", "1 +", "b'x'", "inf", "{1}"]
        {
            assert_eq!(shown(bad), None, "{bad}");
        }
        assert_eq!(shown(&format!("{}1{}", "[".repeat(100), "]".repeat(100))), None);
        assert_eq!(strip("\x1f a\u{3000}"), "a");
    }
}
