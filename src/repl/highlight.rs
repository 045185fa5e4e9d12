//! Syntax highlighting while a line is typed: verbs, keys, strings, numbers and comments are coloured, and whatever no verb
//! would accept is underlined.

use std::ops::Range;

use dam_prelude::verbs::{Context, Piece, Word, check, find, pieces};

use super::colour::Look;

/// `line` with colour codes. Its display width does not change.
pub fn highlighted(context: &Context, line: &str) -> String {
    let mut looks = vec![Look::Plain; line.len()];
    let mut paint = |range: Range<usize>, look: Look| {
        if let Some(looks) = looks.get_mut(range) {
            looks.fill(look);
        }
    };
    let mut begins = true;
    for piece in pieces(line) {
        match piece {
            Piece::End(_) => begins = true,
            Piece::Comment(range) => paint(range, Look::Quiet),
            Piece::Word(word) if begins => {
                begins = false;
                paint(word.range, if find(&word.text).is_ok() { Look::Verb } else { Look::Plain });
            }
            Piece::Word(word) => argument(line, &word, &mut paint),
        }
    }
    for problem in check(context, line) {
        paint(problem.range, Look::Wrong);
    }
    painted(line, &looks)
}

fn argument(line: &str, word: &Word, paint: &mut impl FnMut(Range<usize>, Look)) {
    let (start, end) = (word.range.start, word.range.end);
    let raw = &line[start..end];
    let quote = raw.find(['\'', '"']);
    let is_key = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let value = match raw.find('=').filter(|at| is_key(&raw[..*at])) {
        Some(at) => {
            paint(start..start + at + 1, Look::Key);
            start + at + 1
        }
        None => start,
    };
    let is_number = |text: &str| !text.is_empty() && text.split(',').all(|n| n.parse::<f64>().is_ok_and(f64::is_finite));
    match quote {
        Some(at) => paint((start + at).max(value)..end, Look::Text),
        None if raw.starts_with("--") => paint(start..end, Look::Key),
        None if is_number(&line[value..end]) => paint(value..end, Look::Number),
        None => {}
    }
}

/// `line` with each run of one style painted.
fn painted(line: &str, looks: &[Look]) -> String {
    let mut text = String::with_capacity(line.len() * 2);
    let mut start = 0;
    for (at, _) in line.char_indices() {
        if looks[at] != looks[start] {
            text.push_str(&looks[start].paint(&line[start..at]));
            start = at;
        }
    }
    let last = looks.get(start).copied().unwrap_or_default();
    text + &last.paint(&line[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highlighting_keeps_the_text() {
        let plain = |text: &str| {
            let mut chars = text.chars();
            let mut plain = String::new();
            while let Some(c) = chars.next() {
                if c == '\x1b' { chars.by_ref().find(|c| *c == 'm').map(drop).unwrap_or_default() } else { plain.push(c) }
            }
            plain
        };
        for line in ["", "a", "load x", "wrap f=tanh # n", "generate \"日本 é", "set lr=1e-2 x=", "nonsense é 'a"] {
            assert_eq!(plain(&highlighted(&Context::default(), line)), line);
        }
    }

    #[test]
    fn verbs_keys_numbers_and_errors_have_their_styles() {
        let line = "wrap f=tanh colour=2 ";
        assert_eq!(
            highlighted(&Context::default(), line),
            "\x1b[1;36mwrap\x1b[0m \x1b[35mf=\x1b[0mtanh \x1b[4;31mcolour=2\x1b[0m "
        );
        assert_eq!(highlighted(&Context::default(), "step 5"), "\x1b[1;36mstep\x1b[0m \x1b[36m5\x1b[0m");
    }
}
