//! One model of a picture, drawn by plotters as SVG and PNG, and as text for a terminal.
//!
//! A [`Figure`] is plain data: a title, axes and one kind of [`Mark`]. `scene.rs` lays it out as lines, boxes and words,
//! `paint.rs` gives those to plotters; `text/` draws the same data with characters. Text, axes and grid take the colour
//! of the text around them, data has colours that the colour-blind tell apart (Okabe and Ito) and a marker of its own.

mod axis;
mod bars;
mod curves;
mod heatmap;
mod histogram;
mod paint;
mod scene;
mod text;

use std::fmt;
use std::path::Path;

use base64::Engine;

pub use bars::Bars;
pub use curves::{Curves, Series, Spacing};
pub use heatmap::{Heatmap, Scale};
pub use histogram::Histogram;

use self::scene::{Colour, Scene, WIDTH, series_colour};
use super::{COLUMNS, cell, escape, numbers};
use crate::checkpoint::{Written, replace_file};
use crate::error::{Error, Result};

/// A picture: what is drawn, and what is written around it.
///
/// ```
/// use dam_prelude::show::{Figure, Series};
///
/// let loss = Series::new("total", [(1.0, 2.0), (2.0, 0.5), (3.0, 0.1)]);
/// let figure = Figure::curve("loss", "step", "nats", vec![loss]);
/// assert!(figure.svg().starts_with("<svg"));
/// assert!(figure.text(40, true).lines().all(|line| line.len() <= 40));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// A line above; none if empty.
    pub title: String,
    /// What is along; none if empty.
    pub x: String,
    /// What is up, or of a heatmap what its cells are; none if empty.
    pub y: String,
    /// How values are written.
    pub unit: Unit,
    /// What is drawn.
    pub mark: Mark,
    /// Lines below.
    pub notes: Vec<String>,
}

/// What is drawn. Values that are not finite are left out.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// Lines of points.
    Curves(Curves),
    /// A grid of cells.
    Heatmap(Heatmap),
    /// How often values fall where.
    Histogram(Histogram),
    /// Lengths beside each other.
    Bars(Bars),
}

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// As they are.
    #[default]
    Number,
    /// Shares of 1, as a percentage.
    Percent,
}

impl Unit {
    /// A value in about three digits.
    fn write(self, x: f64) -> String {
        match self {
            Unit::Percent => format!("{:.1}%", 100.0 * x),
            Unit::Number => numbers::brief(x),
        }
    }
}

impl Figure {
    fn of(title: impl Into<String>, x: &str, y: &str, mark: Mark) -> Self {
        Self { title: title.into(), x: x.into(), y: y.into(), unit: Unit::Number, mark, notes: Vec::new() }
    }

    /// Curves of `y` over `x`; logarithmic where all values are positive and span more than a decade.
    pub fn curve(title: impl Into<String>, x: &str, y: &str, series: Vec<Series>) -> Self {
        Self::of(title, x, y, Mark::Curves(Curves::new(series)))
    }

    /// A grid of `values`, row by row, coloured by how far they are above or below `neutral`. `x` is what the columns
    /// are, `what` the values.
    pub fn heatmap(
        title: impl Into<String>,
        x: &str,
        what: &str,
        rows: Vec<String>,
        columns: Vec<String>,
        values: Vec<Vec<f64>>,
        neutral: f64,
    ) -> Self {
        let scale = Scale::around(what, columns.len(), neutral, values.iter().flatten().copied());
        Self::of(title, x, what, Mark::Heatmap(Heatmap { rows, columns, values, scales: vec![scale] }))
    }

    /// Counts in bins of equal width between `from` and `to`: the same number of bins in every series.
    pub fn histogram(title: impl Into<String>, x: &str, from: f64, to: f64, series: Vec<(String, Vec<u64>)>) -> Self {
        Self::of(title, x, "share", Mark::Histogram(Histogram { from, to, series })).percent()
    }

    /// Bars of `what`: for every group one of each series; NaN where there is none.
    pub fn bars(title: impl Into<String>, what: &str, groups: Vec<String>, series: Vec<(String, Vec<f64>)>) -> Self {
        Self::of(title, what, "", Mark::Bars(Bars { groups, series }))
    }

    /// The same with values written as percentages.
    pub fn percent(mut self) -> Self {
        self.unit = Unit::Percent;
        if let Mark::Heatmap(heatmap) = &mut self.mark {
            heatmap.scales.iter_mut().for_each(|scale| scale.unit = Unit::Percent);
        }
        self
    }

    /// The same with a line below.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The picture laid out.
    fn scene(&self) -> Scene {
        let mut scene = Scene::new();
        let top = scene.title(&self.title);
        let bottom = match &self.mark {
            Mark::Curves(curves) => curves.draw(self, &mut scene, top),
            Mark::Heatmap(heatmap) => heatmap.draw(self, &mut scene, top),
            Mark::Histogram(histogram) => histogram.draw(self, &mut scene, top),
            Mark::Bars(bars) => bars.draw(self, &mut scene, top),
        };
        scene.finish(bottom, &self.notes);
        scene
    }

    /// The picture as an SVG file's text, 640 units wide, on white so that it can be read on a page of any colour.
    pub fn svg(&self) -> String {
        paint::svg_file(&self.scene(), &self.title)
    }

    /// The picture as an element for a page that is kept: an image with the SVG file inside. Jupyter takes any other SVG
    /// out of a notebook that comes from elsewhere, and leaves its words.
    pub fn html(&self) -> String {
        let scene = self.scene();
        let data = base64::engine::general_purpose::STANDARD.encode(paint::svg_file(&scene, &self.title));
        format!(
            "<img src=\"data:image/svg+xml;base64,{data}\" alt=\"{}\" width=\"{WIDTH}\" height=\"{}\" style=\"max-width:100%;height:auto\">",
            escape(&self.title),
            scene.height
        )
    }

    /// The picture as an SVG element for a page that changes while one looks: no background, text and axes in the page's
    /// text colour.
    pub fn inline(&self) -> String {
        paint::svg_inline(&self.scene(), &self.title)
    }

    /// The picture as a PNG file's bytes, 1280 pixels wide, on white. Letters that its font lacks, such as Japanese,
    /// are boxes: an SVG takes them from the reader's fonts.
    ///
    /// # Errors
    /// None that is known: what plotters or the encoder may report.
    pub fn png(&self) -> Result<Vec<u8>> {
        paint::png(&self.scene())
    }

    /// The picture drawn with characters, in lines of at most `width` columns; with `ascii` of plain ASCII alone.
    pub fn text(&self, width: usize, ascii: bool) -> String {
        text::draw(self, width, ascii)
    }

    /// What a picture can be written as, by the end of its name.
    pub const FORMATS: [&str; 2] = [".svg", ".png"];

    /// Writes the picture, by a temporary sibling, as the end of its name says: `.svg` or `.png`. A picture that is
    /// there is replaced.
    ///
    /// # Errors
    /// Another ending, something there that is no picture, or a place that has no room or may not be written.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<Written> {
        let file = file.as_ref();
        let end = file.extension().and_then(|end| end.to_str()).unwrap_or_default().to_lowercase();
        let bytes = match end.as_str() {
            "svg" => self.svg().into_bytes(),
            "png" => self.png()?,
            _ => return Err(Error::bad_value("picture", &file.display().to_string(), "a name that ends in .svg or .png")),
        };
        if file.symlink_metadata().is_ok() && !paint::is_picture(file) {
            return Err(Error::NotReplaced { path: file.into(), what: "a picture" });
        }
        replace_file(file, &bytes)
    }

    /// Shows the picture as the result of an evcxr cell, with its text twin.
    pub fn evcxr_display(&self) {
        cell(&self.html(), &self.to_string());
    }
}

/// The colour that series `i` of every picture has, as red, green and blue.
pub(super) fn palette(i: usize) -> [u8; 3] {
    match series_colour(i) {
        Colour::Rgb(r, g, b) => [r, g, b],
        Colour::Ink | Colour::Faint => [128; 3],
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(COLUMNS, false))
    }
}
