//! The statement at the cursor: the words around it, and the word that is being typed.

use super::statement::Argument;
use super::words::{Piece, Word, escaped, pieces, quoted};

/// The position of a cursor.
pub struct Cursor<'a> {
    line: &'a str,
    /// The words of the statement before it.
    pub before: Vec<Argument>,
    /// The words of the statement after it.
    pub after: Vec<Argument>,
    /// The word at the cursor, up to the cursor.
    pub word: Word,
}

impl<'a> Cursor<'a> {
    /// The cursor at byte `position` of `line`, or at the character that byte belongs to; none in a
    /// comment.
    pub fn at(line: &'a str, position: usize) -> Option<Self> {
        let mut end = position.min(line.len());
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let (mut before, mut word) = (Vec::new(), Word { range: end..end, ..Word::default() });
        for piece in pieces(&line[..end]) {
            match piece {
                Piece::Comment(range) if range.end == end => return None,
                Piece::Comment(_) => {}
                Piece::End(_) => before.clear(),
                Piece::Word(last) if last.range.end == end => word = last,
                Piece::Word(earlier) => before.push(Argument::from(&earlier)),
            }
        }
        // Inside quotation marks it is not known yet where they end.
        let behind = if word.open.is_none() { pieces(line) } else { Vec::new() };
        let behind = behind.into_iter().skip_while(|piece| match piece {
            Piece::Word(Word { range, .. }) | Piece::End(range) | Piece::Comment(range) => {
                range.end < end || range.start < end
            }
        });
        let words = behind.map_while(|piece| {
            if let Piece::Word(word) = piece { Some(Argument::from(&word)) } else { None }
        });
        let after = words.collect();
        Some(Self { line, before, after, word })
    }

    /// The byte of the line where the word continues after its first `stem` bytes, and a function
    /// that quotes a text for that place; with `whole`, as the end of the word.
    pub fn place(&self, stem: usize) -> (usize, impl Fn(&str, bool) -> String) {
        let raw = &self.line[self.word.range.clone()];
        let kept = self.word.text.get(..stem).unwrap_or_default();
        // The part before the first quotation mark has no escapes.
        let plain = raw.find(['\'', '"']).unwrap_or(raw.len());
        let inside = stem > plain;
        let start = self.word.range.start + if inside { 0 } else { stem };
        let kept = if inside { kept.to_owned() } else { String::new() };
        let is_quoted = self.word.quoted;
        let write = move |text: &str, whole: bool| {
            let text = format!("{kept}{text}");
            let written = quoted(&text);
            match written.strip_suffix('"').filter(|w| w.starts_with('"')) {
                // More follows inside the quotation marks.
                Some(open) if !whole => open.to_owned(),
                None if is_quoted && whole => format!("\"{}\"", escaped(&text)),
                None if is_quoted => format!("\"{}", escaped(&text)),
                _ => written,
            }
        };
        (start, write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: &str) -> (Vec<String>, String, Vec<String>) {
        let position = line.find('|').unwrap();
        let line = line.replacen('|', "", 1);
        let cursor = Cursor::at(&line, position).unwrap();
        let texts = |all: Vec<Argument>| all.into_iter().map(|a| a.text).collect();
        (texts(cursor.before), cursor.word.text, texts(cursor.after))
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn the_cursor_knows_its_statement() {
        assert_eq!(at("load a; wrap f=t|an b; c"), (owned(&["wrap"]), "f=t".into(), owned(&["b"])));
        assert_eq!(at("load a|"), (owned(&["load"]), "a".into(), owned(&[])));
        assert_eq!(at("load | a b"), (owned(&["load"]), "".into(), owned(&["a", "b"])));
        assert_eq!(at("|load a"), (owned(&[]), "".into(), owned(&["load", "a"])));
        assert_eq!(at("step\n  save 'a b|"), (owned(&["save"]), "a b".into(), owned(&[])));
        assert_eq!(at("step # x\nlo|"), (owned(&[]), "lo".into(), owned(&[])));
        assert!(Cursor::at("step # lo", 9).is_none());
    }

    #[test]
    fn inserted_completions_are_read_back_unchanged() {
        let put = |line: &str, stem: usize, text: &str, whole: bool| {
            let cursor = Cursor::at(line, line.len()).unwrap();
            let (start, write) = cursor.place(stem);
            format!("{}{}", &line[..start], write(text, whole))
        };
        assert_eq!(put("data ja=fi", 3, "file.txt", true), "data ja=file.txt");
        assert_eq!(put("data ja=my", 3, "my file.txt", true), "data ja=\"my file.txt\"");
        assert_eq!(put("data ja=\"my f", 3, "my file.txt", true), "data ja=\"my file.txt\"");
        assert_eq!(put("data ja='my", 3, "my dir/", false), "data ja=\"my dir/");
        assert_eq!(put("data 'ja=my", 3, "my \"x\"", true), r#"data "ja=my \"x\"""#);
        assert_eq!(put("save 'a", 0, "abc", true), "save \"abc\"");
        assert_eq!(put("save 'a", 0, "abc/", false), "save \"abc/");
    }
}
