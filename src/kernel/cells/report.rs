//! Reports errors of a cell at their line and column in the cell.

use std::ops::Range;

use ariadne::{Color, Label, Report, ReportKind, Source};
use evcxr::CompilationError;

use super::code::value;
use super::failure::{Failure, SourcePosition};
use super::locate::{self, CellPosition, GENERATED};

/// The code that wraps the value of a cell so that it is shown.
const SHOW: (&str, &str) = ("dam_prelude::shown!(", ");");

/// The code of a cell as it is compiled.
pub struct CompiledCode {
    pub text: String,
    /// The line and column where [`SHOW`] begins, counted from 1.
    wrapper: Option<(usize, usize)>,
}

impl CompiledCode {
    /// The code unchanged.
    pub fn plain(rust: &str) -> Self {
        Self { text: rust.to_owned(), wrapper: None }
    }

    /// The code with its value shown.
    pub fn showing_value(rust: &str) -> Self {
        let Some(Range { start, end }) = value(rust) else { return Self::plain(rust) };
        let text =
            format!("{}{}{}{}{}", &rust[..start], SHOW.0, &rust[start..end], SHOW.1, &rust[end..]);
        Self::from_compiled(&text)
    }

    /// Code that [`Self::showing_value`] has produced.
    pub fn from_compiled(text: &str) -> Self {
        let wrapper = text.rfind(SHOW.0).map(|at| {
            let before = &text[..at];
            (
                1 + before.matches('\n').count(),
                1 + before.rsplit('\n').next().unwrap_or_default().chars().count(),
            )
        });
        Self { text: text.to_owned(), wrapper }
    }

    /// The column in the cell for a column in the text.
    fn column(&self, line: usize, column: usize) -> usize {
        match self.wrapper {
            Some((wrapper, at)) if wrapper == line && column > at => {
                at.max(column.saturating_sub(SHOW.0.len()))
            }
            _ => column,
        }
    }
}

/// Earlier cells with their execution counts, latest first.
pub type EarlierCells = [(usize, String)];

/// The position in `cell`, or an earlier cell, of a position in the generated file: the name and
/// text of the cell, line and column.
fn cell_position<'a>(
    cell: &'a str,
    code: &CompiledCode,
    generated: &str,
    line: usize,
    column: usize,
    earlier: &'a EarlierCells,
) -> Option<(String, &'a str, usize, usize)> {
    let texts =
        std::iter::once(code.text.as_str()).chain(earlier.iter().map(|(_, text)| text.as_str()));
    let CellPosition { cell: at, line, column } = locate::find(generated, line, column, texts)?;
    Some(match at.checked_sub(1).and_then(|at| earlier.get(at)) {
        Some((number, text)) => (format!("cell [{number}]"), text, line, column),
        None => ("cell".to_owned(), cell, line, code.column(line, column)),
    })
}

/// The position of a failure, with the line of the cell if it is in one.
pub fn describe_position(
    cell: &str,
    code: &CompiledCode,
    at: &SourcePosition,
    generated: &str,
    earlier: &EarlierCells,
) -> String {
    let is_generated = at.file == GENERATED
        || at.file.ends_with(&format!("/{GENERATED}"))
            && !std::path::Path::new(&at.file).is_absolute();
    let line = generated.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
    let column = character(line, at.column);
    let found = is_generated
        .then(|| cell_position(cell, code, generated, at.line, column, earlier))
        .flatten();
    match found {
        Some((name, text, line, column)) => locate::excerpt(&name, text, line, column),
        None => format!(" --> {}:{}:{}", at.file, at.line, at.column),
    }
}

/// The number of the character at `column` of a line. A panic counts columns by display width.
fn character(line: &str, column: usize) -> usize {
    let mut shown = 1;
    let wide = |c: char| {
        if c == '\t' { 4 } else { console::measure_text_width(c.encode_utf8(&mut [0; 4])) }
    };
    let before = line.chars().take_while(|c| {
        let is_before = shown < column;
        shown += wide(*c);
        is_before
    });
    1 + before.count()
}

/// The failure for compiler errors.
pub fn compiler_failure(
    cell: &str,
    code: &CompiledCode,
    errors: &[CompilationError],
    generated: &str,
    earlier: &EarlierCells,
) -> Failure {
    let message = errors.first().map(CompilationError::message).unwrap_or_default();
    let lines = errors.iter().map(|error| {
        render_in_cell(cell, code, error)
            .unwrap_or_else(|| render_elsewhere(cell, code, error, generated, earlier))
    });
    Failure { name: "compiler".into(), message, lines: lines.collect(), position: None }
}

/// An error in the cell, rendered at its position.
fn render_in_cell(cell: &str, code: &CompiledCode, error: &CompilationError) -> Option<String> {
    let starts: Vec<usize> = std::iter::once(0)
        .chain(cell.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(i, _)| i + 1))
        .collect();
    let length = cell.chars().count();
    let offset = |line: usize, column: usize| {
        let start = starts.get(line.checked_sub(1)?)?;
        Some((start + code.column(line, column).saturating_sub(1)).min(length))
    };
    let range = |[line, column, last_line, last_column]: [usize; 4]| {
        let (start, end) = (offset(line, column)?, offset(last_line, last_column)?);
        Some(start..end.max(start))
    };
    // Messages with a position in the cell, each with whether it is the primary one.
    let own = error.spanned_messages().iter().map(|message| (message, message.is_primary));
    let helps = error.help_spanned().iter().map(|message| (message, false));
    let messages: Vec<(Range<usize>, &str, bool)> = own
        .chain(helps)
        .filter_map(|(message, is_primary)| {
            let span = message.span.as_ref()?;
            let range =
                range([span.start_line, span.start_column, span.end_line, span.end_column])?;
            Some((range, message.label.as_str(), is_primary))
        })
        .collect();
    let (primary, ..) =
        messages.iter().find(|(.., is_primary)| *is_primary).or(messages.first())?.clone();
    let name = "cell".to_owned();
    let mut report = Report::build(ReportKind::Error, (name.clone(), primary.clone()))
        .with_message(error.message());
    if let Some(code) = error.code() {
        report = report.with_code(code);
    }
    let is_silent =
        !messages.iter().any(|(range, label, _)| *range == primary && !label.is_empty());
    for (i, (range, label, is_primary)) in messages.into_iter().enumerate() {
        if label.is_empty() && !(is_silent && is_primary) {
            continue;
        }
        let text = if label.is_empty() { "here" } else { label };
        let colour = if is_primary { Color::Red } else { Color::Blue };
        let order = i32::try_from(i).unwrap_or(i32::MAX);
        report = report.with_label(
            Label::new((name.clone(), range))
                .with_message(text)
                .with_color(colour)
                .with_order(order),
        );
    }
    for help in error
        .help()
        .iter()
        .filter(|help| !error.help_spanned().iter().any(|m| m.label.contains(help.as_str())))
    {
        report = report.with_help(help);
    }
    if let Some(hint) = error.evcxr_extra_hint() {
        report = report.with_note(hint);
    }
    let mut drawn = Vec::new();
    report.finish().write((name, Source::from(cell)), &mut drawn).ok()?;
    Some(String::from_utf8_lossy(&drawn).trim_end().to_owned())
}

/// An error outside the cell.
fn render_elsewhere(
    cell: &str,
    code: &CompiledCode,
    error: &CompilationError,
    generated: &str,
    earlier: &EarlierCells,
) -> String {
    let rendered = error.rendered();
    if rendered.is_empty() {
        return error.message();
    }
    locate::replace_positions(&rendered, |at| {
        let (name, _, line, column) =
            cell_position(cell, code, generated, at.line, at.column, earlier)?;
        Some(format!("{name}:{line}:{column}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_panic_count_display_width() {
        assert_eq!(["v[7]", "数[7]", "\t数[7]"].map(|line| character(line, 1)), [1; 3]);
        assert_eq!((character("    数[7]", 7), character("    v[7]", 6)), (6, 6));
        assert_eq!(character("a", 9), 2);
    }

    #[test]
    fn the_wrapper_of_the_value_does_not_count_in_columns() {
        let code = CompiledCode::showing_value("let a = 1;\n  a + 二");
        assert_eq!(code.text, "let a = 1;\n  dam_prelude::shown!(a + 二);");
        assert_eq!(
            (code.column(2, 23), code.column(2, 27), code.column(1, 5), code.column(2, 2)),
            (3, 7, 5, 2)
        );
        assert_eq!(CompiledCode::showing_value("f();").text, "f();");
    }
}
