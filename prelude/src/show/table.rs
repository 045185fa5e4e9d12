//! A table that displays itself as text, HTML and Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use comfy_table::{CellAlignment, LineStyle, TableStyle};
use unicode_width::UnicodeWidthStr;

use super::evcxr::cell;
use super::lines::{longest_piece, wrapped};

/// Draws a line under the header and no others.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// Blanks on each side of a column, and the same in a narrow terminal.
const AIRY: u16 = 1;
const CLOSE: u16 = 0;

/// A table with a header, a title above and notes below. The first column and columns of text align
/// left, the others right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The title; may be empty.
    pub title: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// The cells; every row has as many as the header.
    pub rows: Vec<Vec<String>>,
    /// Notes below the table.
    pub notes: Vec<String>,
    /// The best cells by row and column, marked with a star or in bold.
    pub best: BTreeSet<(usize, usize)>,
    /// The columns of text, which align left.
    pub text_columns: BTreeSet<usize>,
}

impl Table {
    /// Creates a table with a title and a header, without rows.
    pub fn new<S: Into<String>>(
        title: impl Into<String>,
        header: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            title: title.into(),
            header: header.into_iter().map(Into::into).collect(),
            ..Default::default()
        }
    }

    /// Returns an HTML fragment with all text escaped. It takes the colours of the page, light or
    /// dark.
    pub fn html(&self) -> String {
        let cells = |tag: &str, row: &[String]| {
            let cell = |(i, text): (usize, &String)| {
                let align = if i == 0 || self.text_columns.contains(&i) { "left" } else { "right" };
                format!("<{tag} style=\"text-align:{align};white-space:pre-wrap\">{text}</{tag}>")
            };
            row.iter().enumerate().map(cell).collect::<String>()
        };
        let rows = self.marked(escape, |text| format!("<strong>{text}</strong>"));
        let rows: String =
            rows.iter().map(|row| format!("<tr>{}</tr>", cells("td", row))).collect();
        let notes: String = self.notes.iter().map(|note| paragraph(note)).collect();
        let header = if rows.is_empty() { &[][..] } else { &self.header };
        let head = cells("th", &header.iter().map(|name| escape(name)).collect::<Vec<_>>());
        let caption = match self.title.as_str() {
            "" => String::new(),
            title => {
                let style = "caption-side:top;text-align:left;font-weight:bold;color:inherit;padding:0.3em 0;white-space:nowrap";
                format!("<caption style=\"{style}\">{}</caption>", escape(title))
            }
        };
        format!(
            "<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}"
        )
    }

    /// Returns Markdown, with the notes as paragraphs.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let plain = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let header: Vec<String> = self.header.iter().map(|name| plain(name)).collect();
        let align: Vec<String> = (0..header.len())
            .map(|i| {
                if i == 0 || self.text_columns.contains(&i) { "---" } else { "---:" }.to_owned()
            })
            .collect();
        let rows: String =
            self.marked(plain, |text| format!("**{text}**")).iter().map(|row| line(row)).collect();
        let title =
            if self.title.is_empty() { String::new() } else { format!("{}\n\n", self.title) };
        let notes: String = self.notes.iter().map(|note| format!("\n{}\n", plain(note))).collect();
        format!("{title}{}{}{rows}{notes}", line(&header), line(&align))
    }

    /// Formats the table in lines of at most `columns` columns, if given. If it does not fit, tries
    /// less padding, then wrapped text columns, then transposed, then one line per cell.
    pub fn lines(&self, columns: Option<usize>) -> String {
        let rows = self.marked(str::to_owned, |text| format!("{text}*"));
        let room = columns.unwrap_or(usize::MAX);
        let widest = |lines: &[String]| lines.iter().map(|line| line.width()).max().unwrap_or(0);
        let fits = |lines: &Vec<String>| widest(lines) <= room;
        let body = Some(self.grid(rows.clone(), AIRY)).filter(fits).unwrap_or_else(|| {
            let close = self.grid(rows.clone(), CLOSE);
            let less = widest(&close).saturating_sub(room);
            Some(close)
                .filter(fits)
                .or_else(|| self.narrowed(&rows, less).map(|rows| self.grid(rows, CLOSE)))
                .or_else(|| Some(self.transposed(&rows)).filter(fits))
                .unwrap_or_else(|| self.records(&rows, room))
        });
        let title = Some(&self.title).filter(|title| !title.is_empty());
        title
            .into_iter()
            .chain(&body)
            .chain(&self.notes)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Lays out rows under the header, with `blanks` blanks on each side of a column and at least
    /// one between two columns.
    fn grid(&self, rows: Vec<Vec<String>>, blanks: u16) -> Vec<String> {
        // A header without rows is omitted.
        if rows.is_empty() {
            return Vec::new();
        }
        let mut table = comfy_table::Table::new();
        table.load_style(STYLE).set_header(&self.header).add_rows(rows);
        for (i, column) in table.column_iter_mut().enumerate() {
            column.set_padding((blanks, blanks));
            if i > 0 && !self.text_columns.contains(&i) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Wraps text cells so that the table becomes `less` columns narrower; `None` if impossible.
    fn narrowed(&self, rows: &[Vec<String>], mut less: usize) -> Option<Vec<Vec<String>>> {
        let cells = |j: usize| rows.iter().filter_map(move |row| row.get(j));
        let widest = |j: usize| cells(j).map(|cell| cell.width()).max().unwrap_or(0);
        let least = |j: usize| {
            cells(j).map(|cell| longest_piece(cell)).max().unwrap_or(0).max(self.header[j].width())
        };
        let text = || (0..self.header.len()).filter(|j| *j == 0 || self.text_columns.contains(j));
        let mut widths: BTreeMap<usize, (usize, usize)> =
            text().map(|j| (j, (widest(j), least(j)))).collect();
        while less > 0 {
            let (width, _) = widths.values_mut().filter(|(width, least)| width > least).max()?;
            *width -= 1;
            less -= 1;
        }
        let cell = |(j, cell): (usize, &String)| {
            widths.get(&j).map_or(cell.clone(), |(width, _)| wrapped(cell, *width).join("\n"))
        };
        Some(rows.iter().map(|row| row.iter().enumerate().map(cell).collect()).collect())
    }

    /// Transposes the table: one line per column.
    fn transposed(&self, rows: &[Vec<String>]) -> Vec<String> {
        let column = |j: usize| rows.iter().filter_map(move |row| row.get(j).cloned());
        let line = |(j, name): (usize, &String)| {
            [name.clone()].into_iter().chain(column(j)).collect::<Vec<_>>()
        };
        let mut lines = self.header.iter().enumerate().map(line);
        let transposed = Self {
            header: lines.next().unwrap_or_default(),
            rows: lines.collect(),
            ..Self::default()
        };
        transposed.grid(transposed.rows.clone(), AIRY)
    }

    /// Formats rows as records: the first cell and those of unnamed columns, then one line per
    /// other cell.
    fn records(&self, rows: &[Vec<String>], columns: usize) -> Vec<String> {
        let named = self.header.iter().skip(1).map(|name| name.width()).max().unwrap_or(0);
        let indent = 2 + named + 2;
        let mut lines = Vec::new();
        for row in rows {
            let cells = || self.header.iter().zip(row).filter(|(_, cell)| !cell.trim().is_empty());
            let heads = cells()
                .enumerate()
                .filter(|(i, (name, _))| *i == 0 || name.is_empty())
                .map(|(_, (_, cell))| cell.as_str());
            let name = self.header.first().map(String::as_str);
            lines.extend(wrapped(
                &name.into_iter().chain(heads).collect::<Vec<_>>().join(" "),
                columns,
            ));
            for (name, cell) in cells().skip(1).filter(|(name, _)| !name.is_empty()) {
                let mut name = format!("  {name}{}  ", " ".repeat(named - name.width()));
                for part in wrapped(cell, columns.saturating_sub(indent).max(6)) {
                    lines.push(name + &part);
                    name = " ".repeat(indent);
                }
            }
        }
        lines
    }

    /// Returns the rows with every cell transformed by `plain`, and the best also by `mark`.
    fn marked(
        &self,
        plain: impl Fn(&str) -> String,
        mark: impl Fn(String) -> String,
    ) -> Vec<Vec<String>> {
        let cell = |i, j, text: &String| {
            if self.best.contains(&(i, j)) { mark(plain(text)) } else { plain(text) }
        };
        let row = |(i, row): (usize, &Vec<String>)| {
            row.iter().enumerate().map(|(j, text)| cell(i, j, text)).collect()
        };
        self.rows.iter().enumerate().map(row).collect()
    }

    /// Shows the table as the result of an evcxr cell, HTML with its text form.
    pub fn evcxr_display(&self) {
        cell(&self.html(), &self.to_string());
    }
}

/// Formats a note as an HTML paragraph.
pub(crate) fn paragraph(note: &str) -> String {
    format!("<p style=\"margin:0.3em 0;opacity:0.8\">{}</p>", escape(note))
}

/// Escapes `text` for HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("", ["tensor", "", "mean", "what was done"]);
        table.rows.push(
            ["layers.0.mlp.up_proj", ">", "0.25", "load ja=one math=two"]
                .map(str::to_owned)
                .to_vec(),
        );
        table.rows.push(["norm", "", "十二", "wrap"].map(str::to_owned).to_vec());
        table.text_columns = [1, 3].into();
        table
    }

    fn lines(columns: usize) -> Vec<String> {
        table().lines(Some(columns)).lines().map(str::to_owned).collect()
    }

    #[test]
    fn tables_fit_the_width() {
        assert_eq!(lines(200), table().to_string().lines().collect::<Vec<_>>());
        for columns in 24..80 {
            assert!(
                lines(columns).iter().all(|line| line.width() <= columns),
                "{columns}: {:#?}",
                lines(columns)
            );
        }
        assert_eq!(
            lines(50)[2..4],
            [
                "layers.0.mlp.up_proj > 0.25 load ja=one math=two",
                "norm                   十二 wrap"
            ]
        );
        let mut numbers = Table::new("", ["source", "mean", "spread", "least", "most"]);
        numbers.rows.push(["ja", "0.25", "0.5", "0.1", "0.75"].map(str::to_owned).to_vec());
        let transposed = [
            " source     ja",
            "───────────────",
            " mean     0.25",
            " spread    0.5",
            " least     0.1",
            " most     0.75",
        ];
        assert_eq!(numbers.lines(Some(28)).lines().collect::<Vec<_>>(), transposed);
        assert_eq!(
            lines(44)[2..4],
            ["layers.0.mlp.up_ > 0.25 load ja=one", "proj                    math=two"]
        );
        let records = [
            "tensor",
            "layers.0.mlp.up_proj >",
            "  mean           0.25",
            "  what was done  load",
            "                 ja=one",
            "                 math=two",
            "tensor norm",
            "  mean           十二",
            "  what was done  wrap",
        ];
        assert_eq!(lines(27), records);
    }
}
