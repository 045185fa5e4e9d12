//! Curves: one line per series.

use super::axis::{Axis, Spacing, written};
use super::scene::{Anchor, Colour, SMALL, Scene, WIDTH, series_colour, width};
use super::unit::{Labels, Unit};

/// Lines over a common axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves {
    /// In legend order.
    pub series: Vec<Series>,
    /// The spacing of the y axis.
    pub spacing: Spacing,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// `(x, y)`, ordered by x.
    pub points: Vec<(f64, f64)>,
    /// Whether it is the total of the other series: drawn in the text colour, and large in a
    /// terminal.
    pub is_main: bool,
}

impl Series {
    /// Creates a line of `points`, `(x, y)`.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self { name: name.into(), points: points.into_iter().collect(), is_main: false }
    }
}

impl Curves {
    /// Chooses a logarithmic axis if the non-zero finite values are positive and span more than a
    /// decade.
    pub fn new(series: Vec<Series>) -> Self {
        let values = series
            .iter()
            .flat_map(|s| &s.points)
            .map(|(_, y)| *y)
            .filter(|y| y.is_finite() && *y != 0.0);
        let (low, high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        let spacing = if low > 0.0 && high > 10.0 * low && high.is_finite() {
            Spacing::Log
        } else {
            Spacing::Linear
        };
        Self { series, spacing }
    }

    /// Returns the points of a series that can be drawn.
    pub(super) fn shown(&self, series: &Series) -> Vec<(f64, f64)> {
        let shows = |y: f64| y.is_finite() && (self.spacing == Spacing::Linear || y > 0.0);
        series.points.iter().copied().filter(|(x, y)| x.is_finite() && shows(*y)).collect()
    }

    /// Returns the x and y axes; `None` if there is nothing to draw.
    pub(super) fn axes(&self) -> Option<(Axis, Axis)> {
        let points: Vec<(f64, f64)> = self.series.iter().flat_map(|s| self.shown(s)).collect();
        let x = Axis::around(points.iter().map(|(x, _)| *x), Spacing::Linear)?;
        Some((x, Axis::around(points.iter().map(|(_, y)| *y), self.spacing)?.padded()))
    }

    /// Returns the legend of a series: its name, and the reason if it cannot be drawn.
    pub(super) fn label(&self, series: &Series) -> String {
        if !self.shown(series).is_empty() {
            series.name.clone()
        } else if series.points.iter().any(|(_, y)| *y == 0.0) {
            format!("{} (0)", series.name)
        } else {
            format!("{} (none)", series.name)
        }
    }

    pub(super) fn draw(&self, labels: &Labels<'_>, scene: &mut Scene, top: f64) -> f64 {
        let mut lines = Vec::new();
        let mut coloured = 0;
        for series in &self.series {
            let sign = (!series.is_main).then(|| {
                coloured += 1;
                coloured - 1
            });
            lines.push(PlotLine { name: self.label(series), points: self.shown(series), sign });
        }
        // The main line is drawn on top.
        lines.sort_by_key(|line| line.sign.is_none());
        match self.axes() {
            Some((x, y)) => Plot { labels, x, y, unit: Unit::Number }.draw(scene, top, &lines),
            None => nothing(scene, top),
        }
    }
}

/// Writes that there is nothing to draw.
pub(super) fn nothing(scene: &mut Scene, top: f64) -> f64 {
    scene.text((8.0, top + 14.0), NOTHING, Anchor::Left, Colour::Ink);
    top + 30.0
}

/// The text of an empty figure.
pub(super) const NOTHING: &str = "nothing to draw yet";

/// A line to draw. `sign` is its index among colours and markers, or `None` for the text colour.
pub(super) struct PlotLine {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub sign: Option<usize>,
}

/// The frame of a line plot.
pub(super) struct Plot<'a> {
    pub labels: &'a Labels<'a>,
    pub x: Axis,
    pub y: Axis,
    /// The unit of the y axis.
    pub unit: Unit,
}

impl Plot<'_> {
    const HEIGHT: f64 = 250.0;
    const MARKERS: usize = 7;

    /// Draws axes and lines below `top`. Returns the lower edge.
    pub fn draw(&self, scene: &mut Scene, top: f64, lines: &[PlotLine]) -> f64 {
        let write = |v: f64| match self.unit {
            Unit::Percent => self.unit.write(v).replace(".0%", "%"),
            Unit::Number => written(v),
        };
        let ticks = self.y.labels(6, write);
        let widest = ticks.iter().map(|(_, label)| width(label, SMALL)).fold(0.0, f64::max);
        let left = if self.labels.y.is_empty() { 16.0 } else { 30.0 } + widest;
        let right = WIDTH - 20.0;
        let entry = |line: &PlotLine| {
            (line.name.clone(), line.sign.map_or(Colour::Ink, series_colour), line.sign)
        };
        let mut entries: Vec<_> = lines.iter().map(entry).collect();
        entries.sort_by_key(|(.., sign)| *sign);
        let top = if lines.len() > 1 { scene.legend(left, top, &entries) } else { top } + 4.0;
        let bottom = top + Self::HEIGHT;
        let at = |(x, y): (f64, f64)| {
            (left + (right - left) * self.x.place(x), bottom - Self::HEIGHT * self.y.place(y))
        };

        for (value, label) in ticks {
            let (_, y) = at((self.x.low, value));
            scene.line(vec![(left, y), (right, y)], 1.0, Colour::Faint);
            scene.text((left - 6.0, y), label, Anchor::Right, Colour::Ink);
        }
        for (value, label) in self.x.labels(8, written) {
            let (x, _) = at((value, self.y.low));
            scene.line(vec![(x, bottom), (x, bottom + 4.0)], 1.0, Colour::Ink);
            scene.text((x, bottom + 12.0), label, Anchor::Middle, Colour::Ink);
        }
        scene.line(vec![(left, bottom), (right, bottom)], 1.0, Colour::Ink);
        if !self.labels.y.is_empty() {
            scene.rotated_text((12.0, (top + bottom) / 2.0), self.labels.y);
        }
        let mut end = bottom + 22.0;
        if !self.labels.x.is_empty() {
            scene.text(
                ((left + right) / 2.0, end + 6.0),
                self.labels.x,
                Anchor::Middle,
                Colour::Ink,
            );
            end += 14.0;
        }

        for (i, line) in lines.iter().enumerate() {
            let colour = line.sign.map_or(Colour::Ink, series_colour);
            let path = thinned(line.points.iter().map(|p| at(*p)));
            scene.line(path.clone(), if line.sign.is_none() { 2.5 } else { 1.75 }, colour);
            // Markers of different lines are offset.
            let (Some(sign), Some(last)) = (line.sign, path.len().checked_sub(1)) else {
                if let (Some(point), true) = (path.first(), path.len() == 1) {
                    scene.marker(0, *point, colour);
                }
                continue;
            };
            let few = path.len() <= Self::MARKERS;
            let share = |k: usize| {
                (k as f64 + (i as f64 + 0.5) / lines.len() as f64) / Self::MARKERS as f64
            };
            let places = (0..Self::MARKERS)
                .map(|k| if few { k.min(last) } else { (share(k) * last as f64).round() as usize });
            let mut places: Vec<usize> = places.collect();
            places.dedup();
            places.into_iter().for_each(|k| scene.marker(sign, path[k], colour));
        }
        end
    }
}

/// Reduces a path to at most four points per pixel column: first, highest, lowest and last.
fn thinned(path: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::new();
    let mut group: Vec<(f64, f64)> = Vec::new();
    let mut close = |group: &mut Vec<(f64, f64)>| {
        if group.len() > 4 {
            let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let ends =
                [group.first(), group.iter().max_by(by), group.iter().min_by(by), group.last()];
            out.extend(ends.into_iter().flatten());
        } else {
            out.extend(group.iter());
        }
        group.clear();
    };
    for point in path {
        if group.first().is_some_and(|first| first.0.floor() != point.0.floor()) {
            close(&mut group);
        }
        group.push(point);
    }
    close(&mut group);
    out
}
