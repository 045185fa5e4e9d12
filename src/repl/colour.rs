//! Colours that are readable on light and dark backgrounds, or none if the terminal or the user
//! wants none.

use crate::terminal::screen;

/// The style of a piece of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Plain,
    Verb,
    Key,
    Text,
    Number,
    Dim,
    Bold,
    Error,
}

impl Style {
    /// The parameters of the SGR escape sequence.
    fn codes(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Verb => "1;36",
            Style::Key => "35",
            Style::Text => "32",
            Style::Number => "36",
            Style::Dim => "2",
            Style::Bold => "1",
            Style::Error => "4;31",
        }
    }

    /// `text` in this style.
    pub fn paint(self, text: &str) -> String {
        match self {
            Style::Plain => text.to_owned(),
            _ if text.is_empty() => String::new(),
            _ => format!("\x1b[{}m{text}\x1b[0m", self.codes()),
        }
    }
}

/// Whether output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    On,
    Off,
}

impl Colour {
    /// Decided by `NO_COLOR`, `TERM`, and whether standard output is a terminal.
    pub fn from_env() -> Self {
        if screen::has_colours() { Self::On } else { Self::Off }
    }

    /// `text` in `style`, or unchanged if colours are off.
    pub fn paint(self, style: Style, text: &str) -> String {
        if self == Self::On { style.paint(text) } else { text.to_owned() }
    }
}

/// `text` without escape sequences and control characters, parsed as the line editor does when it
/// measures width: an escape sequence has no width.
pub fn without_escapes(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                if chars.next() == Some('[') {
                    while chars.next_if(|c| *c == ';' || c.is_ascii_digit()).is_some() {}
                    chars.next();
                }
            }
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => {}
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_control_characters_are_removed() {
        assert_eq!(without_escapes("a\x1b[31mb\x07c\x1b]d\te\n\u{9b}2J"), "abcd\te\n2J");
        assert_eq!(without_escapes("日本 é\x1b"), "日本 é");
    }
}
