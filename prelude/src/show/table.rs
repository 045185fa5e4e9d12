//! A table that knows how to draw itself as text, as HTML and as Markdown.

use std::collections::BTreeSet;
use std::fmt;

use comfy_table::{CellAlignment, LineStyle, TableStyle};

use super::cell;

/// A line under the header, and no other.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// Rows under a header, a title above and notes below. All but the first column align right, and but for words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// A line above; none if empty.
    pub title: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// Cells, as many a row as the header has.
    pub rows: Vec<Vec<String>>,
    /// Lines below.
    pub notes: Vec<String>,
    /// Cells, by row and column, that are the best of theirs: marked with a star, or bold.
    pub best: BTreeSet<(usize, usize)>,
    /// Columns of words, which align left as the first does.
    pub words: BTreeSet<usize>,
}

impl Table {
    /// A table with a title and a header, and no rows yet.
    pub fn new<S: Into<String>>(title: impl Into<String>, header: impl IntoIterator<Item = S>) -> Self {
        Self { title: title.into(), header: header.into_iter().map(Into::into).collect(), ..Default::default() }
    }

    /// The table as an HTML fragment, all text escaped. It has no colours of its own: it takes those of the page,
    /// light or dark.
    pub fn html(&self) -> String {
        let cells = |tag: &str, row: &[String]| {
            let cell = |(i, text): (usize, &String)| {
                let align = if i == 0 || self.words.contains(&i) { "left" } else { "right" };
                format!("<{tag} style=\"text-align:{align};white-space:pre-wrap\">{text}</{tag}>")
            };
            row.iter().enumerate().map(cell).collect::<String>()
        };
        let rows = self.marked(escape, |text| format!("<strong>{text}</strong>"));
        let rows: String = rows.iter().map(|row| format!("<tr>{}</tr>", cells("td", row))).collect();
        let note = |note: &String| format!("<p style=\"margin:0.3em 0;opacity:0.8\">{}</p>", escape(note));
        let notes: String = self.notes.iter().map(note).collect();
        let head = cells("th", &self.header.iter().map(|name| escape(name)).collect::<Vec<_>>());
        let caption = match self.title.as_str() {
            "" => String::new(),
            title => {
                let style = "caption-side:top;text-align:left;font-weight:bold;color:inherit;padding:0.3em 0;white-space:nowrap";
                format!("<caption style=\"{style}\">{}</caption>", escape(title))
            }
        };
        format!("<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}")
    }

    /// The table in Markdown, its notes as paragraphs.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let plain = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let header: Vec<String> = self.header.iter().map(|name| plain(name)).collect();
        let align: Vec<String> =
            (0..header.len()).map(|i| if i == 0 || self.words.contains(&i) { "---" } else { "---:" }.to_owned()).collect();
        let rows: String = self.marked(plain, |text| format!("**{text}**")).iter().map(|row| line(row)).collect();
        let title = if self.title.is_empty() { String::new() } else { format!("{}\n\n", self.title) };
        let notes: String = self.notes.iter().map(|note| format!("\n{}\n", plain(note))).collect();
        format!("{title}{}{}{rows}{notes}", line(&header), line(&align))
    }

    /// The rows with every cell as `plain` gives it and the best as `mark` makes it.
    fn marked(&self, plain: impl Fn(&str) -> String, mark: impl Fn(String) -> String) -> Vec<Vec<String>> {
        let cell = |i, j, text: &String| if self.best.contains(&(i, j)) { mark(plain(text)) } else { plain(text) };
        let row = |(i, row): (usize, &Vec<String>)| row.iter().enumerate().map(|(j, text)| cell(i, j, text)).collect();
        self.rows.iter().enumerate().map(row).collect()
    }

    /// Shows the table as an evcxr cell's result, HTML with its text twin.
    pub fn evcxr_display(&self) {
        cell(&self.html(), &self.to_string());
    }
}

/// `text` as it is written in HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(STYLE).set_header(&self.header);
        for row in self.marked(str::to_owned, |text| format!("{text}*")) {
            table.add_row(row);
        }
        for (_, column) in table.column_iter_mut().enumerate().skip(1).filter(|(i, _)| !self.words.contains(i)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut lines: Vec<String> = Vec::new();
        if !self.title.is_empty() {
            lines.push(self.title.clone());
        }
        lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
        lines.extend(self.notes.iter().cloned());
        write!(f, "{}", lines.join("\n"))
    }
}
