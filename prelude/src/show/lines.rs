//! Formats text for a terminal: removes control characters, wraps lines, and arranges columns.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The default width of text in columns.
pub const COLUMNS: usize = 80;

/// The minimum width of a column of text.
const NARROWEST: usize = 18;

/// Blanks between columns.
const GAP: usize = 3;

/// Separators in names of tensors and files.
const PARTS: [char; 3] = ['.', '/', '_'];

/// The placeholder for empty text.
const NOTHING: &str = "(empty)";

/// Returns `text`, or the placeholder if it is empty.
pub(super) fn or_nothing(text: &str) -> &str {
    if text.trim().is_empty() { NOTHING } else { text }
}

/// Replaces control characters: names and answers come from untrusted files, and a terminal would
/// obey control sequences.
///
/// ```
/// assert_eq!(dam_prelude::show::printable("a\x1b[2Jb\r\n\tc"), "a\u{fffd}[2Jb\u{fffd}\n\tc");
/// ```
pub fn printable(text: &str) -> String {
    text.chars()
        .map(
            |c| {
                if c.is_control() && c != '\n' && c != '\t' {
                    char::REPLACEMENT_CHARACTER
                } else {
                    c
                }
            },
        )
        .collect()
}

/// Wraps characters, each with a mark, into lines of at most `width` columns: at line ends, then
/// after the last blank, then after a separator in a name, then anywhere.
pub(super) fn wrap_cells<T: Copy>(cells: &[(char, T)], width: usize) -> Vec<Vec<(char, T)>> {
    let columns =
        |line: &[(char, T)]| line.iter().map(|(c, _)| c.width().unwrap_or(0)).sum::<usize>();
    let mut lines = Vec::new();
    for whole in cells.split(|(c, _)| *c == '\n') {
        let mut line: Vec<(char, T)> = Vec::new();
        for (c, mark) in whole {
            let c = if *c == '\t' { ' ' } else { *c };
            if columns(&line) + c.width().unwrap_or(0) > width && !line.is_empty() {
                let last = |ends: &[char]| line.iter().rposition(|(c, _)| ends.contains(c));
                let end = last(&[' ']).or_else(|| last(&PARTS)).map_or(line.len(), |at| at + 1);
                let rest = line.split_off(end);
                lines.push(std::mem::replace(&mut line, rest));
            }
            line.push((c, *mark));
        }
        lines.push(line);
    }
    lines
}

/// Returns the width of the longest part of `text` that [`wrap_cells`] does not break.
pub(super) fn longest_piece(text: &str) -> usize {
    text.split_inclusive(PARTS)
        .flat_map(|part| part.split([' ', '\n']))
        .map(UnicodeWidthStr::width)
        .max()
        .unwrap_or(0)
}

/// Wraps plain text like [`wrap_cells`], with control characters replaced.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let text = printable(text);
    let cells: Vec<(char, ())> = text.chars().map(|c| (c, ())).collect();
    let line = |line: Vec<(char, ())>| {
        line.into_iter().map(|(c, ())| c).collect::<String>().trim_end().to_owned()
    };
    wrap_cells(&cells, width).into_iter().map(line).collect()
}

/// Arranges texts with headings side by side if `width` columns are enough, else one after the
/// other.
pub(super) fn side_by_side(texts: &[(&str, &str)], width: usize) -> String {
    let names: Vec<String> = texts.iter().map(|(name, _)| printable(name)).collect();
    let texts: Vec<&str> = texts.iter().map(|(_, text)| or_nothing(text)).collect();
    let widest = |lines: &[String]| lines.iter().map(|line| line.width()).max().unwrap_or(0);
    let own = |(name, text): (&String, &&str)| name.width().max(widest(&wrapped(text, width)));
    let mut columns: Vec<usize> = names.iter().zip(&texts).map(own).collect();
    let gaps = GAP * texts.len().saturating_sub(1);
    let natural = columns.iter().sum::<usize>() + gaps <= width;
    if !natural {
        columns.fill(width.saturating_sub(gaps) / texts.len().max(1));
    }
    let fits = |(name, columns): (&String, &usize)| name.width() <= *columns;
    let narrow = !natural && columns.iter().any(|columns| *columns < NARROWEST);
    if narrow || !names.iter().zip(&columns).all(fits) {
        let one = |(name, text): (&String, &&str)| {
            let lines = wrapped(text, width.saturating_sub(2).max(2));
            [name.clone()]
                .into_iter()
                .chain(lines.into_iter().map(|line| format!("  {line}")))
                .collect::<Vec<_>>()
        };
        return names.iter().zip(&texts).flat_map(one).collect::<Vec<_>>().join("\n");
    }
    let bodies: Vec<Vec<String>> =
        texts.iter().zip(&columns).map(|(text, columns)| wrapped(text, *columns)).collect();
    let row = |cells: &[&str]| {
        let pad = |(cell, columns): (&&str, &usize)| {
            format!("{cell}{}", " ".repeat(columns.saturating_sub(cell.width())))
        };
        cells
            .iter()
            .zip(&columns)
            .map(pad)
            .collect::<Vec<_>>()
            .join(&" ".repeat(GAP))
            .trim_end()
            .to_owned()
    };
    let mut lines = vec![row(&names.iter().map(String::as_str).collect::<Vec<_>>())];
    lines.push("─".repeat(columns.iter().sum::<usize>() + gaps));
    for i in 0..bodies.iter().map(Vec::len).max().unwrap_or(0) {
        lines.push(row(&bodies
            .iter()
            .map(|body| body.get(i).map_or("", String::as_str))
            .collect::<Vec<_>>()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keeps_every_character() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("十二足す七は", 5), ["十二", "足す", "七は"]);
        assert_eq!(wrapped("a\n\nb\x1b", 5), ["a", "", "b\u{fffd}"]);
        assert_eq!(wrapped(or_nothing(" "), 9), [NOTHING]);
        assert_eq!(wrapped("a layers.0.mlp", 11), ["a", "layers.0.", "mlp"]);
        assert_eq!(printable("十二 ─ ±"), "十二 ─ ±");
        for width in [1, 2, 3, 7] {
            let text = "十 abcdefghij 二三四 k";
            let cells: Vec<(char, ())> = text.chars().map(|c| (c, ())).collect();
            let lines = wrap_cells(&cells, width);
            assert_eq!(lines.concat(), cells);
            assert!(lines.iter().all(|l| l.len() == 1
                || l.iter().map(|(c, ())| c.width().unwrap()).sum::<usize>() <= width));
        }
    }

    #[test]
    fn texts_are_side_by_side_if_they_fit() {
        let texts = [("a", "one"), ("model", "十二\nb")];
        assert_eq!(side_by_side(&texts, 40), "a     model\n───────────\none   十二\n      b");
        assert_eq!(side_by_side(&texts, 10), "a\n  one\nmodel\n  十二\n  b");
        let long = "word ".repeat(20);
        let shown = side_by_side(&[("a", &long), ("b", &long)], 60);
        assert!(
            shown.lines().all(|line| line.width() <= 60) && shown.starts_with("a       "),
            "{shown}"
        );
        let shown = side_by_side(&[("a", &long), ("b", &long)], 30);
        assert!(
            shown.lines().all(|line| line.width() <= 30) && shown.starts_with("a\n  word"),
            "{shown}"
        );
    }
}
