//! The words of a line, and where they are.
//!
//! Words are separated by blanks; `'...'` and `"..."` keep blanks, and in `"..."` a backslash
//! escapes the next character. Statements are separated by `;` or a line end; `#` before a word
//! begins a comment. A prompt that was copied along with a line, `dam> ` or
//! `dam 3 sources · step 100 > `, is ignored.

use std::ops::Range;

/// The text ends inside quotation marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unclosed quotation mark {0}")]
pub struct Unclosed(pub char);

/// A part of a text, with its bytes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A word.
    Word(Word),
    /// A `;` or a line end, which ends a statement.
    End(Range<usize>),
    /// A comment, without the line end.
    Comment(Range<usize>),
}

/// A word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Its text, without quotation marks.
    pub text: String,
    /// Its bytes, with quotation marks.
    pub range: Range<usize>,
    /// The position of a quotation mark that is not closed, and the mark.
    pub open: Option<(usize, char)>,
    /// Whether it has quotation marks.
    pub quoted: bool,
    /// Whether its first `=` is inside them.
    pub together: bool,
    /// Whether it begins with one.
    pub begins_quoted: bool,
}

/// All parts of `text`, in order. A quotation mark that is not closed makes a word up to the end.
pub fn pieces(text: &str) -> Vec<Piece> {
    let mut all = Vec::new();
    let mut word: Option<Word> = None;
    let mut chars = text.char_indices().peekable();
    let mut line = true;
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        if std::mem::take(&mut line) {
            let prompt = at + prompt(&text[at..]);
            if prompt > at {
                while chars.next_if(|(next, _)| *next < prompt).is_some() {}
                line = true;
                continue;
            }
        }
        line = c == '\n';
        match c {
            '#' if word.is_none() => {
                let mut end = end;
                while let Some((at, c)) = chars.next_if(|(_, c)| *c != '\n') {
                    end = at + c.len_utf8();
                }
                all.push(Piece::Comment(at..end));
            }
            ';' | '\n' => {
                all.extend(word.take().map(Piece::Word));
                all.push(Piece::End(at..end));
            }
            '\'' | '"' => {
                let word = word.get_or_insert_with(|| Word {
                    range: at..end,
                    begins_quoted: true,
                    ..Word::default()
                });
                (word.quoted, word.open, word.range.end) = (true, Some((at, c)), text.len());
                while let Some((at, next)) = chars.next() {
                    if next == c {
                        (word.open, word.range.end) = (None, at + 1);
                        break;
                    }
                    let kept = if next == '\\' && c == '"' {
                        chars.next().map(|(_, c)| c)
                    } else {
                        Some(next)
                    };
                    word.together |= kept == Some('=') && !word.text.contains('=');
                    word.text.extend(kept);
                }
            }
            c if c.is_whitespace() => all.extend(word.take().map(Piece::Word)),
            c => {
                let word = word.get_or_insert_with(|| Word { range: at..end, ..Word::default() });
                word.text.push(c);
                word.range.end = end;
            }
        }
    }
    all.extend(word.map(Piece::Word));
    all
}

/// The length in bytes of a prompt at the start of `text`, with the blank after it.
pub(super) fn prompt(text: &str) -> usize {
    let Some(rest) = text.trim_start_matches(' ').strip_prefix("dam") else { return 0 };
    let first = rest.lines().next().unwrap_or_default();
    let end = match first.find(" >") {
        _ if first.starts_with('>') => 1,
        Some(at) if first.starts_with(' ') => at + 2,
        _ => return 0,
    };
    text.len() - rest.len() + end + usize::from(first[end..].starts_with(' '))
}

/// `text` quoted, so that [`statements`](super::statements) reads it as one word.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, ';' | '\'' | '"');
    if !text.is_empty() && !text.starts_with('#') && text.chars().all(plain) {
        return text.to_owned();
    }
    if !text.contains('\'') && text.contains(['"', '\\']) {
        format!("'{text}'")
    } else {
        format!("\"{}\"", escaped(text))
    }
}

/// `text` escaped for double quotation marks.
pub fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_knows_where_it_is() {
        let text = "bake 'a b'c # d\nsave \"é";
        let at: Vec<&str> = (pieces(text).iter())
            .map(|piece| match piece {
                Piece::Word(word) => &text[word.range.clone()],
                Piece::End(range) | Piece::Comment(range) => &text[range.clone()],
            })
            .collect();
        assert_eq!(at, ["bake", "'a b'c", "# d", "\n", "save", "\"é"]);
        let Some(Piece::Word(word)) = pieces(text).pop() else { panic!("no word") };
        assert_eq!((word.text.as_str(), word.open, word.quoted), ("é", Some((21, '"')), true));
    }
}
