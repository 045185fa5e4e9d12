//! Statements: a verb with its arguments, and their written form.

use serde::{Deserialize, Serialize};

use super::words::{Piece, Unclosed, Word, escaped, pieces, prompt, quoted};

/// A verb and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its first word.
    pub verb: String,
    /// The other words.
    pub arguments: Vec<Argument>,
    /// The line where it begins, from 1.
    pub line: usize,
}

/// A word after a verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Argument {
    /// Without quotation marks.
    pub text: String,
    /// Whether it looks like `KEY=VALUE` or a flag, but quotation marks make it a plain word.
    pub is_whole: bool,
}

/// An argument in a journal.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Plain(String),
    Whole { whole: String },
}

impl From<Stored> for Argument {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Plain(text) => text.into(),
            Stored::Whole { whole } => Self::path(whole),
        }
    }
}

impl From<Argument> for Stored {
    fn from(Argument { text, is_whole }: Argument) -> Self {
        if is_whole { Self::Whole { whole: text } } else { Self::Plain(text) }
    }
}

impl From<&Word> for Argument {
    fn from(word: &Word) -> Self {
        let is_pair = word.together && pair(&word.text).is_some();
        let is_flag = word.begins_quoted && word.text.starts_with("--");
        Self { is_whole: is_pair || is_flag, text: word.text.clone() }
    }
}

impl<T: Into<String>> From<T> for Argument {
    fn from(text: T) -> Self {
        Self { text: text.into(), is_whole: false }
    }
}

impl Argument {
    /// A plain word, even if it looks like `KEY=VALUE` or a flag.
    pub fn path(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { is_whole: pair(&text).is_some() || text.starts_with("--"), text }
    }

    /// Whether it is a flag, `--NAME`.
    pub fn is_flag(&self) -> bool {
        !self.is_whole && self.text.starts_with("--")
    }

    /// Splits `KEY=VALUE`.
    pub fn pair(&self) -> Option<(&str, &str)> {
        if self.is_whole { None } else { pair(&self.text) }
    }

    /// The argument as it is written: what makes it `KEY=VALUE` or a flag stands outside of
    /// quotation marks.
    fn written(&self) -> String {
        let whole = quoted(&self.text);
        match pair(&self.text) {
            _ if self.is_whole => format!("\"{}\"", escaped(&self.text)),
            Some((key, value)) if whole != self.text => {
                format!("{}={}", quoted(key), quoted(value))
            }
            None if self.is_flag() && whole != self.text => {
                format!("--{}", quoted(&self.text[2..]))
            }
            _ => whole,
        }
    }
}

impl Statement {
    /// The statement of `verb` with these arguments.
    pub fn new<A: Into<Argument>>(
        verb: impl Into<String>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self { verb: verb.into(), arguments, line: 1 }
    }

    /// The same with the flag `--force`.
    pub fn with_force(&self) -> Self {
        let mut forced = self.clone();
        if !forced.arguments.iter().any(|argument| argument.text == "--force") {
            forced.arguments.push("--force".into());
        }
        forced
    }

    /// The same without the words, other than `KEY=VALUE`, that `is_left_out` names.
    pub fn without(&self, is_left_out: impl Fn(&Argument) -> bool) -> Self {
        let mut rest = self.clone();
        rest.arguments.retain(|argument| argument.pair().is_some() || !is_left_out(argument));
        rest
    }
}

/// Splits `KEY=VALUE`. A path may contain a `=`: only a plain key before it makes a pair.
pub fn pair(text: &str) -> Option<(&str, &str)> {
    let is_plain = |key: &str| key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    text.split_once('=').filter(|(key, _)| is_plain(key))
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
                    last.arguments.push(Argument::from(&word));
                }
            }
        }
    }
    Ok(all)
}

/// The line that reads as `statement`.
pub fn line(statement: &Statement) -> String {
    let mut text = quoted(&statement.verb);
    for argument in &statement.arguments {
        text = format!("{text} {}", argument.written());
    }
    if prompt(&text) == 0 {
        return text;
    }
    // It would be read as a prompt.
    format!("\"{}\"{}", escaped(&statement.verb), &text[statement.verb.len()..])
}

/// Whether `text` is complete, or continues on the next line.
pub fn is_complete(text: &str) -> bool {
    statements(text).is_ok()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        let all = statements(text).unwrap().into_iter();
        all.map(|s| {
            let arguments = s.arguments.into_iter().map(|argument| argument.text);
            std::iter::once(s.verb).chain(arguments).collect()
        })
        .collect()
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
        // Inside quotation marks it is text.
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
            "\u{3000}", "'\"", "x=a b", "=a b", "x='b'", "./x=a b", "x y=b", "--x", "--x y",
            "--x\" y=", "--x=y",
        ] {
            for argument in [Argument::from(word), Argument::path(word)] {
                let statement = Statement::new("v", [argument, "z".into()]);
                assert_eq!(statements(&line(&statement)).unwrap(), [statement]);
            }
        }
    }

    #[test]
    fn quoted_words_like_a_prompt_stay_words() {
        for text in ["'dam>x' y", "'dam' '>' y", "'dam>'", "damage > y"] {
            let read = statements(text).unwrap();
            assert_eq!(statements(&line(&read[0])).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn quotes_keep_a_word_together() {
        let text = "load \"x=b\" m=\"x=b\" n='a b' x\"=\"b \"./c=d\" 'a b=c'";
        let read = &statements(text).unwrap()[0];
        let words: Vec<_> = read.arguments.iter().map(|a| (a.text.as_str(), a.pair())).collect();
        let expected = [
            ("x=b", None),
            ("m=x=b", Some(("m", "x=b"))),
            ("n=a b", Some(("n", "a b"))),
            ("x=b", None),
            ("./c=d", None),
            ("a b=c", None),
        ];
        assert_eq!(words, expected);
        assert_eq!(line(read), "load \"x=b\" m=x=b n=\"a b\" \"x=b\" ./c=d \"a b=c\"");
        let journal = serde_json::to_string(&read.arguments[..2]).unwrap();
        assert_eq!(journal, r#"[{"whole":"x=b"},"m=x=b"]"#);
        let back: Vec<Argument> = serde_json::from_str(&journal).unwrap();
        assert_eq!(back, read.arguments[..2]);
    }

    #[test]
    fn an_open_quote_is_incomplete() {
        assert_eq!(statements("generate \"a"), Err(Unclosed('"')));
        assert!(!is_complete("generate 'a\nb"));
        assert!(is_complete("generate 'a\nb'"));
    }

    #[test]
    fn what_is_quoted_is_read_as_it_was() {
        for text in
            ["", "plain", "a b", "it's", "a\"b", "a\\ b", "\\", "#x", "a;b", "two\nlines", "ja=a b"]
        {
            assert_eq!(words(&format!("save {}", quoted(text))), [vec!["save", text]], "{text:?}");
        }
    }

    /// Any words, written as a line among others, read as the same words.
    #[test]
    fn what_is_written_is_what_was_read() {
        let pieces = [
            "'", "\"", " ", "#", ";", "\n", "\\", "\t", "\r", "a", "=", "~/", "\u{a0}", "\u{3000}",
            "日本", "--x", "\\\"",
        ];
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..2000 {
            let mut random = || -> String {
                (0..rng.random_range(0..6))
                    .map(|_| pieces[rng.random_range(0..pieces.len())])
                    .collect()
            };
            let words: Vec<String> = (0..4).map(|_| random()).collect();
            let before = Statement::new("load", ["a"]);
            let odd = Statement::new(words[0].clone(), words[1..].to_vec());
            let text = format!("{}\n{}\n{}", line(&before), line(&odd), line(&before));
            let read = statements(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
            let same =
                |a: &Statement, b: &Statement| (&a.verb, &a.arguments) == (&b.verb, &b.arguments);
            assert!(
                read.len() == 3
                    && same(&read[0], &before)
                    && same(&read[1], &odd)
                    && same(&read[2], &before),
                "{text:?}"
            );
        }
    }

    #[test]
    fn words_are_quoted_only_where_it_is_needed() {
        let line = |words: &[&str]| line(&Statement::new(words[0], words[1..].to_vec()));
        assert_eq!(line(&["save", "a#b\\c"]), "save a#b\\c");
        assert_eq!(line(&["generate", "a b", "#", ""]), "generate \"a b\" \"#\" \"\"");
        assert_eq!(
            line(&["generate", "say \"it\"", "it's; \"so\""]),
            "generate 'say \"it\"' \"it's; \\\"so\\\"\""
        );
    }
}
