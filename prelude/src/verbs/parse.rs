//! What a line means: verbs with their arguments. Pure.
//!
//! Words are separated by blanks; `'...'` and `"..."` keep blanks, and in `"..."` a backslash keeps the
//! next character. Verbs are separated by `;` or a line end; `#` before a word begins a comment.

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

/// All statements of `text`.
///
/// # Errors
/// A quotation mark that is not closed: more input may complete it.
pub fn statements(text: &str) -> Result<Vec<Statement>, Unclosed> {
    let (mut all, mut words) = (Vec::new(), Vec::new());
    let mut word: Option<String> = None;
    // Where the statement begins, and on which line that is.
    let (mut begin, mut line) = (0, 1);
    let mut chars = text.chars();
    loop {
        if words.is_empty() && word.is_none() {
            let here = text.len() - chars.as_str().len();
            line += text[begin..here].matches('\n').count();
            begin = here;
        }
        match chars.next() {
            None => break,
            Some(c @ ('\'' | '"')) => quoted(c, &mut chars, word.get_or_insert_default())?,
            Some('#') if word.is_none() => {
                chars.by_ref().find(|c| *c == '\n');
                finish(&mut words, line, &mut all);
            }
            Some(';' | '\n') => {
                words.extend(word.take());
                finish(&mut words, line, &mut all);
            }
            Some(c) if c.is_whitespace() => words.extend(word.take()),
            Some(c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    finish(&mut words, line, &mut all);
    Ok(all)
}

fn quoted(mark: char, chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), Unclosed> {
    loop {
        match chars.next().ok_or(Unclosed(mark))? {
            c if c == mark => return Ok(()),
            '\\' if mark == '"' => word.push(chars.next().ok_or(Unclosed(mark))?),
            c => word.push(c),
        }
    }
}

fn finish(words: &mut Vec<String>, line: usize, all: &mut Vec<Statement>) {
    let mut words = words.drain(..);
    if let Some(verb) = words.next() {
        all.push(Statement { verb, arguments: words.collect(), line });
    }
}

/// A line that means `statement`.
pub fn line(statement: &Statement) -> String {
    let words = std::iter::once(&statement.verb).chain(&statement.arguments);
    words.map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// `word` as one writes it: in quotation marks where it needs them.
pub fn quote(word: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !"'\";".contains(c);
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('#') {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether `text` is whole, or goes on in the next line.
pub fn is_complete(text: &str) -> bool {
    statements(text).is_ok()
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
        assert_eq!(words("load a b; wrap\n\n;step 5 "), [vec!["load", "a", "b"], vec!["wrap"], vec!["step", "5"]]);
        assert!(words(" ;\n# only a comment").is_empty());
    }

    #[test]
    fn quotes_keep_blanks_separators_and_hashes() {
        assert_eq!(words(r#"generate "a; \"b\" # c" 'd e'f"#), [vec!["generate", "a; \"b\" # c", "d ef"]]);
        assert_eq!(words("save a#b # note; not a verb\nstep"), [vec!["save", "a#b"], vec!["step"]]);
        assert_eq!(words("bake ''"), [vec!["bake", ""]]);
    }

    #[test]
    fn a_statement_knows_its_line() {
        let lines = |text| statements(text).unwrap().into_iter().map(|s| s.line).collect::<Vec<_>>();
        assert_eq!(lines("# one\n\nload a; wrap\n  step # note\ngenerate 'a\nb'\nloss"), [3, 3, 4, 5, 7]);
    }

    #[test]
    fn a_line_means_its_statement() {
        for word in ["a", "", "a b", "it's", "a\"b", "#a", "a#b", "a;b", "a\\b", "a\\ b", "a\nb", "\u{3000}", "'\"", "x=a b"] {
            let statement = Statement { verb: "v".into(), arguments: vec![word.into(), "z".into()], line: 1 };
            assert_eq!(statements(&line(&statement)).unwrap(), [statement]);
        }
    }

    #[test]
    fn an_open_quote_is_incomplete() {
        assert_eq!(statements("generate \"a"), Err(Unclosed('"')));
        assert!(!is_complete("generate 'a\nb"));
        assert!(is_complete("generate 'a\nb'"));
    }
}
