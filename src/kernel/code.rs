//! What the text of a cell is, decided without running it: verbs or Rust, whole or not, and where the cursor is.

/// The verbs of a cell, which come first, and the Rust after them.
///
/// ```text
/// %load builtin:japanese builtin:math
/// %wrap
/// dam.loss()?
/// ```
pub fn split(cell: &str) -> (Vec<&str>, &str) {
    let (mut verbs, mut rest) = (Vec::new(), cell);
    loop {
        let line = rest.lines().next().unwrap_or_default();
        let bare = line.trim();
        match bare.strip_prefix('%') {
            Some(verb) => verbs.push(verb.trim()),
            // Blank lines and comments may stand between verbs.
            None if rest.is_empty() => return (verbs, rest),
            None if bare.is_empty() => {}
            None => return (verbs, rest),
        }
        rest = rest.get(line.len()..).unwrap_or_default();
        rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')).unwrap_or(rest);
    }
}

/// Whether Rust code is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    Yes,
    /// With how many brackets open.
    No(usize),
    /// A bracket closes what is not open.
    Never,
}

/// Whether all brackets, strings and comments of `code` are closed.
pub fn whole(code: &str) -> Whole {
    let mut open = Vec::new();
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => Some(rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => comment(rest),
            '"' => string(rest),
            'r' if !is_word(code, code.len() - rest.len()) => raw(rest).unwrap_or(Some(1)),
            '\'' => Some(character(rest)),
            '(' | '[' | '{' => {
                open.push(c);
                Some(1)
            }
            ')' | ']' | '}' => match (open.pop(), c) {
                (Some('('), ')') | (Some('['), ']') | (Some('{'), '}') => Some(1),
                _ => return Whole::Never,
            },
            _ => Some(c.len_utf8()),
        };
        match skipped {
            Some(n) => rest = &rest[n..],
            None => return Whole::No(open.len()),
        }
    }
    if open.is_empty() { Whole::Yes } else { Whole::No(open.len()) }
}

/// Whether what is before byte `at` belongs to the same word.
fn is_word(code: &str, at: usize) -> bool {
    code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// The length of the comment that `text` begins with; comments nest.
fn comment(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    loop {
        match text.get(at..at + 2).or_else(|| text.get(at..)) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") if depth == 1 => return Some(at + 2),
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += text.get(at..)?.chars().next()?.len_utf8(),
        }
    }
}

/// The length of the string that `text` begins with.
fn string(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => drop(characters.next()),
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The length of the raw string that `text` begins with, none where it has no end; the outer none where it is none.
fn raw(text: &str) -> Option<Option<usize>> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let begin = 1 + hashes;
    text.get(begin..)?.strip_prefix('"').map(|inner| {
        let end = format!("\"{}", "#".repeat(hashes));
        inner.find(&end).map(|at| begin + 1 + at + end.len())
    })
}

/// The length of the character that `text` begins with; of a lifetime, its mark.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    let end = match characters.next() {
        Some((_, '\\')) => text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map(|(at, _)| at + 3),
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1),
        None => None,
    };
    end.unwrap_or(1)
}

/// What is inserted for a completion: of a call, no names of arguments; none of a field without a name.
pub fn inserted(completion: &str) -> Option<String> {
    match completion.split_once('(') {
        Some((_, ")")) => Some(completion.to_owned()),
        Some((name, _)) => Some(format!("{name}(")),
        None => (!completion.starts_with(|c: char| c.is_ascii_digit())).then(|| completion.to_owned()),
    }
}

/// Byte `position` of the character number `cursor` of `code`, as Jupyter counts.
pub fn position(code: &str, cursor: usize) -> usize {
    code.char_indices().nth(cursor).map_or(code.len(), |(at, _)| at)
}

/// The number of the character at byte `position`.
pub fn cursor(code: &str, position: usize) -> usize {
    code.char_indices().take_while(|(at, _)| *at < position).count()
}

/// Where the word at byte `position` ends.
pub fn word_end(code: &str, position: usize) -> usize {
    let rest = &code[position..];
    position + rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_come_before_rust() {
        assert_eq!(split("%load a b\n\n %wrap\ndam.loss()?\n%x"), (vec!["load a b", "wrap"], "dam.loss()?\n%x"));
        assert_eq!(split("%step 5"), (vec!["step 5"], ""));
        assert_eq!(split("let a = 7 % 2;"), (vec![], "let a = 7 % 2;"));
    }

    #[test]
    fn brackets_in_strings_comments_and_characters_do_not_count() {
        for code in [
            "",
            "let a = (1, [2]);",
            "\"(\"; // (",
            "/* ( /* [ */ */ ()",
            "'('; '\\''; '\\u{28}'; '\"'",
            "fn f<'a>(x: &'a str) {}",
            "r#\"( \" \"#; r\"\\\"; br(1)",
            "\"十(\\\"\"",
        ] {
            assert_eq!(whole(code), Whole::Yes, "{code}");
        }
        assert_eq!(whole("for i in 0..3 {\n    f("), Whole::No(2));
        assert_eq!(whole("\"open"), Whole::No(0));
        assert_eq!(whole("/* open"), Whole::No(0));
        assert_eq!(whole("r#\"open\""), Whole::No(0));
        assert_eq!(whole("(]"), Whole::Never);
    }

    #[test]
    fn jupyter_counts_characters() {
        assert_eq!((position("é = 1", 2), cursor("é = 1", 3)), (3, 2));
        assert_eq!(position("ab", 9), 2);
        assert_eq!(word_end("dam.train(3)", 6), 9);
        let inserted = ["loss()", "train(steps)", "terms", "0"].map(inserted);
        assert_eq!(inserted, [Some("loss()".into()), Some("train(".into()), Some("terms".into()), None]);
    }
}
