//! What a chat template may make, which comes with a model from anywhere. Fuel pays for instructions and bytes of values;
//! here is what it does not see: methods of Python's strings, `tojson`, and how long the whole may be.

use std::io::{self, Write};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Fuel of one rendering: an instruction takes one, and so do 64 bytes that are made.
pub(super) const FUEL: u64 = 1_000_000;

/// Bytes that a template adds to a conversation at most, beside so many times its own.
const ADDED: usize = 1 << 20;
const TIMES: usize = 8;

/// Characters that `format` pads to, or gives of a number.
const WIDTH: usize = 4096;

/// Bytes of a format of dates.
const DATE: usize = 1024;

fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// Pays for `bytes`.
fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64 + 1)
}

/// The methods that strings, lists and maps have in Python, each of which pays for what it reads and makes.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        pay(state, text.len())?;
        match name {
            "format" => format(state, text, args)?,
            "join" => join(state, args)?,
            _ => {}
        }
    }
    unknown_method_callback(state, value, name, args)
}

/// Pays for what `text.format(args)` gives, whose widths are bounded.
fn format(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<(), Error> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    if { digits }.any(|digits| digits.parse::<usize>().map_or(true, |width| width > WIDTH)) {
        return Err(refused(format!("format with a width of more than {WIDTH}")));
    }
    let mut longest = WIDTH;
    for arg in args {
        longest = longest.max(match arg.kind() {
            ValueKind::String => arg.as_str().map_or(0, str::len),
            ValueKind::Undefined | ValueKind::None | ValueKind::Bool | ValueKind::Number => 0,
            kind => return Err(refused(format!("format of a {kind}"))),
        });
    }
    pay(state, text.matches('{').count().saturating_mul(longest))
}

/// Pays for what is joined, which are strings as in Python.
fn join(state: &State<'_, '_>, args: &[Value]) -> Result<(), Error> {
    for item in args.first().map(Value::try_iter).transpose()?.into_iter().flatten() {
        let text = item.as_str().ok_or_else(|| refused(format!("join of a {}", item.kind())))?;
        pay(state, text.len())?;
    }
    Ok(())
}

/// An error for a format of dates that is longer than any.
pub(super) fn date_format(format: &str) -> Result<(), Error> {
    if format.len() > DATE { Err(refused(format!("strftime_now with a format of {} bytes", format.len()))) } else { Ok(()) }
}

/// `text`, unless a conversation of `bytes` became longer than any template makes it.
pub(super) fn rendered(text: String, bytes: usize) -> Result<String, String> {
    match text.len() > ADDED + TIMES * bytes {
        true => Err(format!("it makes {} bytes of a conversation of {bytes}", text.len())),
        false => Ok(text),
    }
}

/// Bytes that are written as long as there is fuel for them.
pub(super) struct Paid<'a, 't, 'e> {
    pub bytes: Vec<u8>,
    state: &'a State<'t, 'e>,
}

impl<'a, 't, 'e> Paid<'a, 't, 'e> {
    pub fn new(state: &'a State<'t, 'e>) -> Self {
        Self { bytes: Vec::new(), state }
    }
}

impl Write for Paid<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        pay(self.state, bytes.len()).map_err(io::Error::other)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
