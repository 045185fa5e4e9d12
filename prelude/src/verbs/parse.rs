//! What a line means: verbs with their arguments. Pure.
//!
//! Words are separated by blanks; `'...'` and `"..."` keep blanks, and in `"..."` a backslash keeps
//! the next character. They keep a `=` too: `bake "a=b"` is `bake ./a=b`, a path. Verbs are
//! separated by `;` or a line end; `#` before a word begins a comment. A prompt that was copied
//! along with a line, `dam> ` or `dam 3 sources · step 100 > `, is none of its words.

use std::ops::Range;

use super::arguments::pair;

/// Verbs that take paths beside words that they part at a `=`.
const PARTING: [&str; 5] = ["load", "merge", "evolve", "compare", "bake"];

/// A verb and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its first word.
    pub verb: String,
    /// The other words, without quotation marks.
    pub arguments: Vec<String>,
    /// Where it begins, from 1.
    pub line: usize,
}

/// The text ends inside quotation marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a quotation mark {0} is not closed")]
pub struct Unclosed(pub char);

/// A part of a text, and the bytes it takes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A word.
    Word(Word),
    /// A `;` or a line end, after which another statement begins.
    End(Range<usize>),
    /// A comment, without the line end behind it.
    Comment(Range<usize>),
}

/// A word as it is meant and as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Without quotation marks.
    pub text: String,
    /// The bytes it takes, quotation marks and all.
    pub range: Range<usize>,
    /// Where a quotation mark is that nothing closes, and which.
    pub open: Option<(usize, char)>,
    /// Whether it has quotation marks.
    pub quoted: bool,
    /// Whether its first `=` is within them.
    pub together: bool,
}

impl Word {
    /// It as an argument of `verb`.
    pub fn argument(&self, verb: &str) -> String {
        if self.together { path(verb, &self.text) } else { self.text.clone() }
    }
}

/// Whether `verb` parts `word` at its first `=`.
fn parts(verb: &str, word: &str) -> bool {
    PARTING.contains(&verb) && pair(word).is_some()
}

/// `path` as an argument that `verb` does not part.
pub fn path(verb: &str, path: &str) -> String {
    if parts(verb, path) { format!("./{path}") } else { path.to_owned() }
}

/// All parts of `text`, in order. Every text has some: a quotation mark that nothing closes makes a
/// word up to the end.
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
                let word = word.get_or_insert_with(|| Word { range: at..end, ..Word::default() });
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

/// The bytes of a prompt that `text` begins with, the blank behind it too where there is one.
fn prompt(text: &str) -> usize {
    let Some(rest) = text.trim_start_matches(' ').strip_prefix("dam") else { return 0 };
    let first = rest.lines().next().unwrap_or_default();
    let end = match first.find(" >") {
        _ if first.starts_with('>') => 1,
        Some(at) if first.starts_with(' ') => at + 2,
        _ => return 0,
    };
    text.len() - rest.len() + end + usize::from(first[end..].starts_with(' '))
}

/// All statements of `text`.
///
/// # Errors
/// A quotation mark that is not closed: more input may complete it.
pub fn statements(text: &str) -> Result<Vec<Statement>, Unclosed> {
    let mut all: Vec<Statement> = Vec::new();
    let (mut begins, mut line, mut counted) = (true, 1, 0);
    for piece in pieces(text) {
        match piece {
            Piece::Comment(_) => {}
            Piece::End(_) => begins = true,
            Piece::Word(Word { open: Some((_, mark)), .. }) => return Err(Unclosed(mark)),
            Piece::Word(word) if begins => {
                line += text[counted..word.range.start].matches('\n').count();
                (begins, counted) = (false, word.range.start);
                all.push(Statement { verb: word.text, arguments: Vec::new(), line });
            }
            Piece::Word(word) => {
                if let Some(last) = all.last_mut() {
                    last.arguments.push(word.argument(&last.verb));
                }
            }
        }
    }
    Ok(all)
}

/// A line that means `statement`.
pub fn line(statement: &Statement) -> String {
    let arguments = statement.arguments.iter().map(|word| argument(&statement.verb, word));
    let text =
        std::iter::once(quoted(&statement.verb)).chain(arguments).collect::<Vec<_>>().join(" ");
    match prompt(&text) {
        0 => text,
        // It would be taken for a prompt.
        _ => format!("\"{}\"{}", escaped(&statement.verb), &text[statement.verb.len()..]),
    }
}

/// `word` as it is written behind `verb`: a `=` that parts it stands outside of quotation marks.
fn argument(verb: &str, word: &str) -> String {
    let whole = quoted(word);
    match word.split_once('=') {
        Some((key, value)) if whole != word && parts(verb, word) => {
            format!("{}={}", quoted(key), quoted(value))
        }
        _ => whole,
    }
}

/// Whether `text` is whole, or goes on in the next line.
pub fn is_complete(text: &str) -> bool {
    statements(text).is_ok()
}

/// `text` as a word that [`statements`] reads as `text` again.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, ';' | '\'' | '"');
    if !text.is_empty() && !text.starts_with('#') && text.chars().all(plain) {
        return text.to_owned();
    }
    match !text.contains('\'') && text.contains(['"', '\\']) {
        true => format!("'{text}'"),
        false => format!("\"{}\"", escaped(text)),
    }
}

/// `text` as it stands between double quotation marks.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        let all = statements(text).unwrap().into_iter();
        all.map(|s| [vec![s.verb], s.arguments].concat()).collect()
    }

    #[test]
    fn verbs_are_separated_by_semicolons_and_lines() {
        assert_eq!(
            words("load a b; wrap\n\n;step 5 "),
            [vec!["load", "a", "b"], vec!["wrap"], vec!["step", "5"]]
        );
        assert!(words(" ;\n# only a comment").is_empty());
    }

    #[test]
    fn quotes_keep_blanks_separators_and_hashes() {
        assert_eq!(
            words(r#"generate "a; \"b\" # c" 'd e'f"#),
            [vec!["generate", "a; \"b\" # c", "d ef"]]
        );
        assert_eq!(words("save a#b # note; not a verb\nstep"), [vec!["save", "a#b"], vec!["step"]]);
        assert_eq!(words("bake ''"), [vec!["bake", ""]]);
    }

    #[test]
    fn pasted_prompts_are_no_words() {
        let text =
            "dam> load a b\ndam 3 sources · step 100 · loss 0.43 > branch bold; step\n  dam> help";
        assert_eq!(
            words(text),
            [vec!["load", "a", "b"], vec!["branch", "bold"], vec!["step"], vec!["help"]]
        );
        let text = "dam>\ndam>load a\ndam 2 sources · step 0 >\ndam 2 sources >wrap\ndam>";
        assert_eq!(words(text), [vec!["load", "a"], vec!["wrap"]]);
        // Within a text in quotation marks it is text.
        assert_eq!(words("generate 'a\ndam> b'"), [vec!["generate", "a\ndam> b"]]);
        assert_eq!(words("damage 1"), [vec!["damage", "1"]]);
    }

    #[test]
    fn a_statement_knows_its_line() {
        let lines =
            |text| statements(text).unwrap().into_iter().map(|s| s.line).collect::<Vec<_>>();
        assert_eq!(
            lines("# one\n\nload a; wrap\n  step # note\ngenerate 'a\nb'\nloss"),
            [3, 3, 4, 5, 7]
        );
    }

    #[test]
    fn a_line_means_its_statement() {
        for word in [
            "a", "", "a b", "it's", "a\"b", "#a", "a#b", "a;b", "a\\b", "a\\ b", "a\nb",
            "\u{3000}", "'\"", "x=a b", "=a b", "x='b'", "./x=a b", "x y=b",
        ] {
            for verb in ["v", "load", "data"] {
                let statement = Statement {
                    verb: verb.into(),
                    arguments: vec![word.into(), "z".into()],
                    line: 1,
                };
                assert_eq!(statements(&line(&statement)).unwrap(), [statement]);
            }
        }
    }

    #[test]
    fn a_verb_that_looks_like_a_prompt_is_none() {
        for text in ["'dam>x' y", "'dam' '>' y", "'dam>'", "damage > y"] {
            let read = statements(text).unwrap();
            assert_eq!(statements(&line(&read[0])).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn quotes_keep_a_word_together() {
        let paths = "bake \"o=p\"; merge linear 'o2=p' dtype=f32; load \"x=b\" m=\"x=b\" n='a b'; load x\"=\"b \"./c=d\"";
        let expected = [
            vec!["bake", "./o=p"],
            vec!["merge", "linear", "./o2=p", "dtype=f32"],
            vec!["load", "./x=b", "m=x=b", "n=a b"],
            vec!["load", "./x=b", "./c=d"],
        ];
        assert_eq!(words(paths), expected);
        // Where every word has a `=`, or none is parted, it stays as it is.
        let others = "data \"m=a b\"; set \"lr=1\"; generate \"x=1\"; save \"o=p\"";
        assert_eq!(
            words(others),
            [["data", "m=a b"], ["set", "lr=1"], ["generate", "x=1"], ["save", "o=p"]]
        );
        let back: Vec<String> =
            statements(&format!("{paths}; {others}")).unwrap().iter().map(line).collect();
        assert_eq!(back[..2], ["bake ./o=p", "merge linear ./o2=p dtype=f32"]);
        assert_eq!(back[2], "load ./x=b m=x=b n=\"a b\"");
        assert_eq!(back[4..], ["data \"m=a b\"", "set lr=1", "generate x=1", "save o=p"]);
    }

    #[test]
    fn an_open_quote_is_incomplete() {
        assert_eq!(statements("generate \"a"), Err(Unclosed('"')));
        assert!(!is_complete("generate 'a\nb"));
        assert!(is_complete("generate 'a\nb'"));
    }

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

    #[test]
    fn what_is_quoted_is_read_as_it_was() {
        for text in
            ["", "plain", "a b", "it's", "a\"b", "a\\ b", "\\", "#x", "a;b", "two\nlines", "ja=a b"]
        {
            assert_eq!(words(&format!("save {}", quoted(text))), [vec!["save", text]], "{text:?}");
        }
    }
}
