//! Colours that are readable on light and dark backgrounds, or none if the terminal or the user wants none.

use crate::terminal;

/// The style of a piece of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    #[default]
    Plain,
    Verb,
    Key,
    Text,
    Number,
    Quiet,
    Strong,
    Wrong,
}

impl Look {
    /// The parameters of the SGR escape sequence.
    fn codes(self) -> &'static str {
        match self {
            Look::Plain => "",
            Look::Verb => "1;36",
            Look::Key => "35",
            Look::Text => "32",
            Look::Number => "36",
            Look::Quiet => "2",
            Look::Strong => "1",
            Look::Wrong => "4;31",
        }
    }

    /// `text` in this style.
    pub fn paint(self, text: &str) -> String {
        match self {
            Look::Plain => text.to_owned(),
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
        if terminal::has_colours() { Self::On } else { Self::Off }
    }

    /// `text` in `style`, or unchanged if colours are off.
    pub fn paint(self, look: Look, text: &str) -> String {
        if self == Self::On { look.paint(text) } else { text.to_owned() }
    }
}

/// `text` without escape sequences and control characters, parsed as the line editor does when it measures width: an escape
/// sequence has no width.
pub fn shown(text: &str) -> String {
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
        assert_eq!(shown("a\x1b[31mb\x07c\x1b]d\te\n\u{9b}2J"), "abcd\te\n2J");
        assert_eq!(shown("日本 é\x1b"), "日本 é");
    }
}
