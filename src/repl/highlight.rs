//! Syntax highlighting while a line is typed: verbs, keys, strings, numbers and comments are
//! coloured, and whatever no verb would accept is underlined.

use std::ops::Range;

use dam_prelude::assist::check;
use dam_prelude::verbs::{Context, Piece, Word, find, pieces};

use super::colour::Style;

/// `line` with colour codes. Its display width does not change.
pub fn highlighted(context: &Context, line: &str) -> String {
    let mut styles = vec![Style::Plain; line.len()];
    let mut paint = |range: Range<usize>, style: Style| {
        if let Some(styles) = styles.get_mut(range) {
            styles.fill(style);
        }
    };
    let mut begins = true;
    for piece in pieces(line) {
        match piece {
            Piece::End(_) => begins = true,
            Piece::Comment(range) => paint(range, Style::Dim),
            Piece::Word(word) if begins => {
                begins = false;
                paint(
                    word.range,
                    if find(&word.text).is_ok() { Style::Verb } else { Style::Plain },
                );
            }
            Piece::Word(word) => argument(line, &word, &mut paint),
        }
    }
    for problem in check(context, line) {
        paint(problem.range, Style::Error);
    }
    painted(line, &styles)
}

fn argument(line: &str, word: &Word, paint: &mut impl FnMut(Range<usize>, Style)) {
    let (start, end) = (word.range.start, word.range.end);
    let raw = &line[start..end];
    let quote = raw.find(['\'', '"']);
    let is_key = |key: &str| {
        !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
    };
    let value = match raw.find('=').filter(|at| is_key(&raw[..*at])) {
        Some(at) => {
            paint(start..start + at + 1, Style::Key);
            start + at + 1
        }
        None => start,
    };
    let is_number = |text: &str| {
        !text.is_empty() && text.split(',').all(|n| n.parse::<f64>().is_ok_and(f64::is_finite))
    };
    match quote {
        Some(at) => paint((start + at).max(value)..end, Style::Text),
        None if raw.starts_with("--") => paint(start..end, Style::Key),
        None if is_number(&line[value..end]) => paint(value..end, Style::Number),
        None => {}
    }
}

/// `line` with each run of one style painted.
fn painted(line: &str, styles: &[Style]) -> String {
    let mut text = String::with_capacity(line.len() * 2);
    let mut start = 0;
    for (at, _) in line.char_indices() {
        if styles[at] != styles[start] {
            text.push_str(&styles[start].paint(&line[start..at]));
            start = at;
        }
    }
    let last = styles.get(start).copied().unwrap_or_default();
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
                if c == '\x1b' {
                    chars.by_ref().find(|c| *c == 'm').map(drop).unwrap_or_default()
                } else {
                    plain.push(c)
                }
            }
            plain
        };
        for line in [
            "",
            "a",
            "load x",
            "wrap f=tanh # n",
            "generate \"日本 é",
            "set lr=1e-2 x=",
            "nonsense é 'a",
        ] {
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
        assert_eq!(
            highlighted(&Context::default(), "step 5"),
            "\x1b[1;36mstep\x1b[0m \x1b[36m5\x1b[0m"
        );
    }
}
