//! Maps positions in the file that evcxr generates to positions in cells.
//!
//! evcxr writes each statement of a cell on its own lines, in order, among its own code and the
//! functions and types of earlier cells. So a line is located by its text: first in the cell, then
//! in earlier ones. If a text occurs more than once, the surrounding lines decide.

use super::failure::SourcePosition;

/// The file that evcxr generates from a cell.
pub const GENERATED: &str = "src/lib.rs";

/// A position in a cell; lines and columns count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellPosition {
    /// The index of the cell in the list searched.
    pub cell: usize,
    pub line: usize,
    pub column: usize,
}

/// How many lines around a match are compared.
const AROUND: usize = 8;

/// The position in one of `cells` that corresponds to `line` and `column` of `generated`. The first
/// cell is the one that ran.
pub fn find<'a>(
    generated: &str,
    line: usize,
    column: usize,
    cells: impl IntoIterator<Item = &'a str>,
) -> Option<CellPosition> {
    let lines: Vec<&str> = generated.lines().map(str::trim_end).collect();
    let at = line.checked_sub(1)?;
    let text = *lines.get(at)?;
    if text.trim().is_empty() {
        return None;
    }
    cells.into_iter().enumerate().find_map(|(cell, code)| {
        let code: Vec<&str> = code.lines().map(str::trim_end).collect();
        let around = |i: usize, step: isize| {
            let same = |n: &usize| {
                let there = |of: &[&str], from: usize| {
                    of.get(from.checked_add_signed(step * *n as isize)?)
                        .map(|l| l.trim().to_owned())
                };
                there(&lines, at)
                    .is_some_and(|line| there(&code, i).is_some_and(|other| other == line))
            };
            (1..=AROUND).take_while(same).count()
        };
        // The statement may begin in the middle of its line, and another may follow on it.
        let found = code.iter().enumerate().filter_map(|(i, whole)| Some((i, whole.find(text)?)));
        let (i, offset) = found.max_by_key(|(i, offset)| {
            let is_whole = code[*i].trim() == text.trim();
            (is_whole, around(*i, 1) + around(*i, -1), usize::MAX - offset)
        })?;
        let before = code[i][..offset].chars().count();
        Some(CellPosition { cell, line: i + 1, column: before + column })
    })
}

/// A position with its line, in the format of the compiler.
pub fn excerpt(name: &str, code: &str, line: usize, column: usize) -> String {
    let text = code.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let margin = " ".repeat(line.to_string().len());
    format!("{margin}--> {name}:{line}:{column}\n{margin} |\n{line} | {text}\n{margin} |")
}

/// `text` with positions in the generated file replaced by what `replacement` returns.
pub fn replace_positions(
    text: &str,
    mut replacement: impl FnMut(&SourcePosition) -> Option<String>,
) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(GENERATED) {
        let (before, named) = rest.split_at(at);
        out.push_str(before);
        let numbers: Vec<&str> = named[GENERATED.len()..].splitn(3, ':').collect();
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let position = match numbers[..] {
            ["", line, column] => {
                let column = digits(column);
                let length = GENERATED.len() + line.len() + column.len() + 2;
                let position = line.parse().ok().zip(column.parse().ok());
                position.map(|(line, column)| {
                    (length, SourcePosition { file: GENERATED.into(), line, column })
                })
            }
            _ => None,
        };
        let new = position.and_then(|(length, position)| Some((length, replacement(&position)?)));
        let length = new.as_ref().map_or(GENERATED.len(), |(length, _)| *length);
        out.push_str(new.as_ref().map_or(GENERATED, |(_, replacement)| replacement));
        rest = &named[length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATED_CODE: &str = "\
#![allow(unused)]
fn twice(v: &[i32]) -> i32 {
    v[7]
}
pub extern \"C\" fn run_user_code_3() {
let v = vec![1];
dam_prelude::shown!(
v[7]
);
let 十二 = 1; \nv[7 + 十二];
}
";

    #[test]
    fn a_position_is_located_by_its_line_and_the_lines_around_it() {
        let cell = "// 十二\nlet v = vec![1];\nlet 十二 = 1; v[7 + 十二];";
        let find = |line, column, cells: &[&str]| {
            find(GENERATED_CODE, line, column, cells.iter().copied())
                .map(|p| (p.cell, p.line, p.column))
        };
        assert_eq!(find(6, 9, &[cell]), Some((0, 2, 9)));
        // The second statement on a line.
        assert_eq!(find(11, 1, &[cell]), Some((0, 3, 13)));
        // Code defined in an earlier cell.
        let before = "fn twice(v: &[i32]) -> i32 {\n    v[7]\n}";
        assert_eq!(find(3, 5, &[cell, before]), Some((1, 2, 5)));
        assert_eq!(find(1, 1, &[cell, before]), None);
        assert_eq!(find(99, 1, &[cell]), None);
        // The same text twice: the surrounding lines decide.
        let twice = "fn a() {\n    v[7]\n}\nfn twice(v: &[i32]) -> i32 {\n    v[7]\n}";
        assert_eq!(find(3, 5, &[twice]), Some((0, 5, 5)));
    }

    #[test]
    fn positions_in_a_text_are_replaced() {
        let replacement = |position: &SourcePosition| {
            (position.line == 3).then(|| format!("cell:{}", position.column))
        };
        assert_eq!(
            replace_positions(" --> src/lib.rs:3:5\n| src/lib.rs:4:1 src/lib.rs", replacement),
            " --> cell:5\n| src/lib.rs:4:1 src/lib.rs"
        );
    }

    #[test]
    fn a_position_is_shown_with_its_line() {
        assert_eq!(
            excerpt("cell", "a\nlet 十 = b;", 2, 9),
            " --> cell:2:9\n  |\n2 | let 十 = b;\n  |"
        );
    }
}
