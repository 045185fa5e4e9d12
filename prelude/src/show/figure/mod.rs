//! Figures: drawn by plotters as SVG and PNG, and as text for a terminal.
//!
//! A [`Figure`] is plain data: a title, axes and one kind of [`Mark`]. `scene.rs` lays it out as
//! lines, boxes and text, and `paint.rs` renders that with plotters; `text/` draws the same data
//! with characters. Text, axes and grid take the surrounding text colour; each series has a marker
//! and a colour safe for the colour-blind (Okabe and Ito).

mod axis;
mod bars;
mod curves;
mod heatmap;
mod histogram;
mod paint;
mod scene;
mod text;
mod unit;

use std::fmt;
use std::path::Path;

use base64::Engine;

pub use axis::Spacing;
pub use bars::Bars;
pub use curves::{Curves, Series};
pub use heatmap::{Heatmap, Scale};
pub use histogram::Histogram;
pub use unit::Unit;

use self::scene::{Colour, Scene, WIDTH, series_colour};
use self::unit::Labels;
use super::evcxr::cell;
use super::lines::COLUMNS;
use super::table::escape;
use crate::checkpoint::{Written, replace_file};
use crate::error::{Error, Result};

/// A figure.
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
    /// The title; may be empty.
    pub title: String,
    /// The label of the x axis; may be empty.
    pub x: String,
    /// The label of the y axis, or of a heatmap's cells; may be empty.
    pub y: String,
    /// The unit of the values.
    pub unit: Unit,
    /// The data.
    pub mark: Mark,
    /// Notes below the figure.
    pub notes: Vec<String>,
}

/// The kind of a figure with its data. Values that are not finite are omitted.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// Curves.
    Curves(Curves),
    /// A heatmap.
    Heatmap(Heatmap),
    /// A histogram.
    Histogram(Histogram),
    /// Bars.
    Bars(Bars),
}

impl Figure {
    fn of(title: impl Into<String>, x: &str, y: &str, mark: Mark) -> Self {
        Self {
            title: title.into(),
            x: x.into(),
            y: y.into(),
            unit: Unit::Number,
            mark,
            notes: Vec::new(),
        }
    }

    /// Creates curves of `y` over `x`; logarithmic if all values are positive and span more than a
    /// decade.
    pub fn curve(title: impl Into<String>, x: &str, y: &str, series: Vec<Series>) -> Self {
        Self::of(title, x, y, Mark::Curves(Curves::new(series)))
    }

    /// Creates a heatmap of `values`, row by row, coloured by their difference from `neutral`. `x`
    /// labels the columns and `what` the values.
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
        Self::of(
            title,
            x,
            what,
            Mark::Heatmap(Heatmap { rows, columns, values, scales: vec![scale] }),
        )
    }

    /// Creates a histogram of counts in bins of equal width between `from` and `to`. All series
    /// have the same number of bins.
    pub fn histogram(
        title: impl Into<String>,
        x: &str,
        from: f64,
        to: f64,
        series: Vec<(String, Vec<u64>)>,
    ) -> Self {
        Self::of(title, x, "fraction", Mark::Histogram(Histogram { from, to, series })).percent()
    }

    /// Creates bars of `what`: in every group one per series; NaN for none.
    pub fn bars(
        title: impl Into<String>,
        what: &str,
        groups: Vec<String>,
        series: Vec<(String, Vec<f64>)>,
    ) -> Self {
        Self::of(title, what, "", Mark::Bars(Bars { groups, series }))
    }

    /// Returns the figure with values written as percentages.
    pub fn percent(mut self) -> Self {
        self.unit = Unit::Percent;
        if let Mark::Heatmap(heatmap) = &mut self.mark {
            heatmap.scales.iter_mut().for_each(|scale| scale.unit = Unit::Percent);
        }
        self
    }

    /// Returns the figure with another note.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Lays out the figure.
    fn scene(&self) -> Scene {
        let mut scene = Scene::new();
        let top = scene.title(&self.title);
        let labels = Labels { x: &self.x, y: &self.y, unit: self.unit };
        let bottom = match &self.mark {
            Mark::Curves(curves) => curves.draw(&labels, &mut scene, top),
            Mark::Heatmap(heatmap) => heatmap.draw(&labels, &mut scene, top),
            Mark::Histogram(histogram) => histogram.draw(&labels, &mut scene, top),
            Mark::Bars(bars) => bars.draw(&labels, &mut scene, top),
        };
        scene.finish(bottom, &self.notes);
        scene
    }

    /// Returns an SVG file, 640 units wide, on white so that it is legible on any background.
    pub fn svg(&self) -> String {
        paint::svg_file(&self.scene(), &self.title)
    }

    /// Returns an HTML element for a saved page: an image that embeds the SVG file. Jupyter strips
    /// any other SVG from untrusted notebooks and leaves its text.
    pub fn html(&self) -> String {
        let scene = self.scene();
        let data =
            base64::engine::general_purpose::STANDARD.encode(paint::svg_file(&scene, &self.title));
        format!(
            "<img src=\"data:image/svg+xml;base64,{data}\" alt=\"{}\" width=\"{WIDTH}\" height=\"{}\" style=\"max-width:100%;height:auto\">",
            escape(&self.title),
            scene.height
        )
    }

    /// Returns an SVG element for a live page: no background, text and axes in the page's text
    /// colour.
    pub fn inline(&self) -> String {
        paint::svg_inline(&self.scene(), &self.title)
    }

    /// Returns a PNG file, 1280 pixels wide, on white. Letters missing from the font, such as
    /// Japanese, become boxes; an SVG uses the viewer's fonts.
    ///
    /// # Errors
    /// None known; plotters or the encoder may fail.
    pub fn png(&self) -> Result<Vec<u8>> {
        paint::png(&self.scene())
    }

    /// The file formats of figures, by suffix.
    pub const FORMATS: [&str; 2] = [".svg", ".png"];

    /// Writes the figure as `.svg` or `.png`, depending on the suffix, and replaces an existing
    /// figure. The file is written to a temporary sibling first.
    ///
    /// # Errors
    /// Another suffix, an existing file that is not a figure, a full disk, or a path that is not
    /// writable.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<Written> {
        let file = file.as_ref();
        let end = file.extension().and_then(|end| end.to_str()).unwrap_or_default().to_lowercase();
        let bytes = match end.as_str() {
            "svg" => self.svg().into_bytes(),
            "png" => self.png()?,
            _ => {
                return Err(Error::bad_value(
                    "figure",
                    &file.display().to_string(),
                    "a name that ends in .svg or .png",
                ));
            }
        };
        if file.symlink_metadata().is_ok() && !paint::is_picture(file) {
            return Err(Error::NotReplaced { path: file.into(), what: "a figure" });
        }
        replace_file(file, &bytes)
    }

    /// Shows the figure as the result of an evcxr cell, with its text form.
    pub fn evcxr_display(&self) {
        cell(&self.html(), &self.to_string());
    }
}

/// Returns the colour of series `i` in every figure: red, green and blue.
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
