//! Analyses the text of a cell without running it: verbs or Rust, complete or not, and cursor
//! positions.

use std::ops::Range;

use ra_ap_syntax::{AstNode, Edition, SourceFile, ast};

/// A part of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A line of verbs, without its prefix.
    Verbs(&'a str),
    /// Rust, preceded by as many empty lines as there are lines above it in the cell.
    Rust(String),
}

/// The parts of a cell, in order.
///
/// ```text
/// %load builtin:japanese builtin:math
/// let dam = latest()?;
/// %step 5
/// ```
///
/// After incomplete Rust, `%` is an operator; after complete Rust it must be in the first column,
/// directly before a verb. A line copied from the prompt is a line of verbs too: `dam> step 5`.
pub fn parts(cell: &str) -> Vec<Part<'_>> {
    let (mut parts, mut rust, mut is_rust) = (Vec::new(), String::new(), false);
    for (i, line) in cell.split_inclusive('\n').enumerate() {
        let text = line.trim_end();
        let verbs = if is_rust {
            verbs(text).filter(|_| {
                is_verb(text) && !matches!(completeness(&rust), Completeness::Incomplete(_))
            })
        } else {
            verbs(text.trim_start())
        };
        match verbs {
            Some(verbs) => {
                let above = std::mem::replace(&mut rust, "\n".repeat(i + 1));
                parts.extend(is_rust.then_some(Part::Rust(above)));
                parts.push(Part::Verbs(verbs));
                is_rust = false;
            }
            None => {
                rust.push_str(line);
                is_rust |= !text.trim_start().is_empty() && !text.starts_with("//");
            }
        }
    }
    parts.extend(is_rust.then_some(Part::Rust(rust)));
    parts
}

/// The verbs in a line that starts with `%` or with a prompt.
pub fn verbs(line: &str) -> Option<&str> {
    if let Some(verbs) = line.strip_prefix('%') {
        return Some(verbs.trim());
    }
    // `dam> ` or `dam 3 sources · step 100 > `
    let rest = line.strip_prefix("dam")?;
    let verbs = match rest.strip_prefix('>') {
        Some(verbs) => verbs.strip_prefix(' ').or(verbs.is_empty().then_some(""))?,
        None => {
            rest.strip_prefix(' ').filter(|rest| rest.contains(" sources · "))?.split_once(" > ")?.1
        }
    };
    Some(verbs.trim())
}

/// Whether this line is a line of verbs after Rust too.
fn is_verb(line: &str) -> bool {
    !line.starts_with('%') || line[1..].starts_with(|c: char| c.is_alphabetic() || c == '?')
}

/// A cell with its lines of verbs replaced by spaces, so that bytes and lines keep their positions.
pub fn without_verbs(cell: &str) -> String {
    let mut bare = cell.to_owned();
    for part in parts(cell) {
        if let Part::Verbs(verbs) = part {
            let at = verbs.as_ptr() as usize - cell.as_ptr() as usize;
            let begin = cell[..at].rfind('\n').map_or(0, |end| end + 1);
            let end = at + verbs.len();
            bare.replace_range(begin..end, &" ".repeat(end - begin));
        }
    }
    bare
}

/// The range of the expression that is the value of `rust`, which may start with evcxr commands.
/// None if there is no such expression or the code does not parse.
pub fn value(rust: &str) -> Option<Range<usize>> {
    const HEAD: &str = "fn f(){";
    let is_above =
        |line: &&str| line.trim().is_empty() || line.starts_with("//") || is_command(line);
    let begin: usize = rust.split_inclusive('\n').take_while(is_above).map(str::len).sum();
    let parsed = SourceFile::parse(&format!("{HEAD}{}\n}}", &rust[begin..]), Edition::Edition2024);
    if !parsed.errors().is_empty() {
        return None;
    }
    let mut items = parsed.syntax_node().children();
    let range =
        ast::Fn::cast(items.next()?)?.body()?.stmt_list()?.tail_expr()?.syntax().text_range();
    let place = |at: ra_ap_syntax::TextSize| usize::from(at) - HEAD.len() + begin;
    items.next().is_none().then(|| place(range.start())..place(range.end()))
}

/// The start of the expression that `code` ends with: after whatever ends a statement or opens a
/// bracket.
pub fn last_expression(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices().rev() {
        match c {
            ')' | ']' | '}' => depth += 1,
            '(' | '[' | '{' if depth > 0 => depth -= 1,
            '(' | '[' | '{' | ';' | ',' | '=' | '\n' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    0
}

/// Whether a line is an evcxr command or a shell command.
pub fn is_command(line: &str) -> bool {
    line.starts_with('!') || line.trim_start_matches(' ').starts_with(':')
}

/// Whether Rust code is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    Complete,
    /// Incomplete, with this many open brackets.
    Incomplete(usize),
    /// A closing bracket does not match.
    Invalid,
}

/// Whether all brackets, strings and comments of `code` are closed.
pub fn completeness(code: &str) -> Completeness {
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
                _ => return Completeness::Invalid,
            },
            _ => Some(c.len_utf8()),
        };
        match skipped {
            Some(n) => rest = &rest[n..],
            None => return Completeness::Incomplete(open.len()),
        }
    }
    if open.is_empty() { Completeness::Complete } else { Completeness::Incomplete(open.len()) }
}

/// Whether byte `at` continues a word.
fn is_word(code: &str, at: usize) -> bool {
    code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// The length of the comment at the start of `text`; comments nest.
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

/// The length of the string literal at the start of `text`.
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

/// The length of the raw string at the start of `text`: the outer option is none if it is not a raw
/// string, the inner one if it is not closed.
fn raw(text: &str) -> Option<Option<usize>> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let begin = 1 + hashes;
    text.get(begin..)?.strip_prefix('"').map(|inner| {
        let end = format!("\"{}", "#".repeat(hashes));
        inner.find(&end).map(|at| begin + 1 + at + end.len())
    })
}

/// The length of the character literal at the start of `text`, or of the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    let end = match characters.next() {
        Some((_, '\\')) => {
            text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map(|(at, _)| at + 3)
        }
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1),
        None => None,
    };
    end.unwrap_or(1)
}

/// The text inserted for a completion: for a call, the name and an opening parenthesis. None for
/// tuple fields.
pub fn inserted(completion: &str) -> Option<String> {
    match completion.split_once('(') {
        Some((_, ")")) => Some(completion.to_owned()),
        Some((name, _)) => Some(format!("{name}(")),
        None => {
            (!completion.starts_with(|c: char| c.is_ascii_digit())).then(|| completion.to_owned())
        }
    }
}

/// The byte position of character `cursor` of `code`, the unit in which Jupyter counts.
pub fn position(code: &str, cursor: usize) -> usize {
    code.char_indices().nth(cursor).map_or(code.len(), |(at, _)| at)
}

/// The character index of byte `position`.
pub fn cursor(code: &str, position: usize) -> usize {
    code.char_indices().take_while(|(at, _)| *at < position).count()
}

/// The opening parenthesis of the call whose arguments contain byte `position`; none if there is a
/// name at that position.
pub fn call_parenthesis(code: &str, position: usize) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (before, after) = code.split_at(position);
    let word = before
        .rfind(|c: char| !is_word(c))
        .map_or(before, |at| &before[at..])
        .trim_start_matches(|c: char| !is_word(c));
    let word = if word.is_empty() { after } else { word };
    if word.starts_with(|c: char| is_word(c) && !c.is_ascii_digit()) {
        return None;
    }
    let mut depth = 0;
    for (at, c) in before.char_indices().rev() {
        match c {
            ')' | ']' => depth += 1,
            '(' | '[' if depth > 0 => depth -= 1,
            '(' => return Some(at).filter(|at| before[..*at].ends_with(is_word)),
            ';' | '{' | '}' => return None,
            _ => {}
        }
    }
    None
}

/// The end of the word at byte `position`.
pub fn word_end(code: &str, position: usize) -> usize {
    let rest = &code[position..];
    position + rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_split_into_verbs_and_rust() {
        let rust = |code: &str| Part::Rust(code.into());
        assert_eq!(
            parts("%load a b\n\n %wrap\ndam.loss()?\n%step 5\nlet a = 1;\n"),
            [
                Part::Verbs("load a b"),
                Part::Verbs("wrap"),
                rust("\n\n\ndam.loss()?\n"),
                Part::Verbs("step 5"),
                rust("\n\n\n\n\nlet a = 1;\n")
            ]
        );
        assert_eq!(parts("// first\n%step 5"), [Part::Verbs("step 5")]);
        // An operator, or part of a string.
        for code in ["let a = 7 % 2;", "let a = 7\n    % b;", "f(\n%b)", "r\"\n%step\n\"", "a\n% b"]
        {
            assert_eq!(parts(code), [rust(code)], "{code}");
        }
        assert_eq!(without_verbs("%load 十\nlet a = 1;"), "         \nlet a = 1;");
    }

    #[test]
    fn lines_copied_from_the_prompt_are_verbs() {
        let copied = "dam> load a b\ndam 3 sources · step 100 · loss 0.43 > branch bold\ndam>";
        assert_eq!(
            parts(copied),
            [Part::Verbs("load a b"), Part::Verbs("branch bold"), Part::Verbs("")]
        );
        for code in ["dam.loss()?", "dam > 3", "dam>3", "dam_other> x"] {
            assert_eq!(parts(code), [Part::Rust(code.into())], "{code}");
        }
    }

    #[test]
    fn the_value_of_a_cell_is_its_last_expression() {
        let value = |code: &'static str| value(code).map(|range| &code[range]);
        assert_eq!(value("let a = 1;\na + 1 // more"), Some("a + 1"));
        assert_eq!(value(":dep x\n// first\n\n'十' "), Some("'十'"));
        assert_eq!(value("for i in 0..3 { f(i); }"), Some("for i in 0..3 { f(i); }"));
        for code in
            ["let a = 1;", "f();", "", "fn f() {}", "f(", ":vars", "use a::b;", "}\nfn g() { 1"]
        {
            assert_eq!(value(code), None, "{code}");
        }
    }

    #[test]
    fn the_last_expression_starts_after_a_delimiter() {
        let last = |code: &'static str| code[last_expression(code)..].trim();
        assert_eq!(
            ["dam", "let x = 1; dam.loss()?", "f(dam", "let y = load([\"a\"])?", "[1, 2]"]
                .map(last),
            ["dam", "dam.loss()?", "dam", "load([\"a\"])?", "[1, 2]"]
        );
    }

    #[test]
    fn brackets_in_strings_comments_and_character_literals_do_not_count() {
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
            assert_eq!(completeness(code), Completeness::Complete, "{code}");
        }
        assert_eq!(completeness("for i in 0..3 {\n    f("), Completeness::Incomplete(2));
        assert_eq!(completeness("\"open"), Completeness::Incomplete(0));
        assert_eq!(completeness("/* open"), Completeness::Incomplete(0));
        assert_eq!(completeness("r#\"open\""), Completeness::Incomplete(0));
        assert_eq!(completeness("(]"), Completeness::Invalid);
    }

    #[test]
    fn cursor_positions_count_characters() {
        assert_eq!((position("é = 1", 2), cursor("é = 1", 3)), (3, 2));
        assert_eq!(position("ab", 9), 2);
        assert_eq!(word_end("dam.train(3)", 6), 9);
        assert_eq!(
            ["dam.train(", "dam.train(1", "f(a(), ", "f(", "(1"]
                .map(|code| call_parenthesis(code, code.len())),
            [Some(9), Some(9), Some(1), Some(1), None]
        );
        assert_eq!(
            ["dam.tra", "f(x", "f(1); "].map(|code| call_parenthesis(code, code.len())),
            [None; 3]
        );
        let inserted = ["loss()", "train(steps)", "terms", "0"].map(inserted);
        assert_eq!(
            inserted,
            [Some("loss()".into()), Some("train(".into()), Some("terms".into()), None]
        );
    }
}
