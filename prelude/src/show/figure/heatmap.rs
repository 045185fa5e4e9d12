//! Heatmaps: a grid of cells, coloured by their difference from a neutral value (blue above, brown
//! below).

use super::axis::round_step;
use super::curves::nothing;
use super::scene::{Anchor, Colour, SMALL, Scene, WIDTH, shortened, width};
use super::unit::{Labels, Unit};

/// A heatmap.
#[derive(Clone, Debug, PartialEq)]
pub struct Heatmap {
    /// The names of the rows.
    pub rows: Vec<String>,
    /// The names of the columns; only some are shown if there are too many.
    pub columns: Vec<String>,
    /// The values, row by row.
    pub values: Vec<Vec<f64>>,
    /// The colour scales of the columns, from the left; each covers a number of columns.
    pub scales: Vec<Scale>,
}

/// The colour scale of some columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// The name of the values.
    pub name: String,
    /// The number of columns it covers.
    pub columns: usize,
    /// The lowest value.
    pub low: f64,
    /// The value without colour.
    pub neutral: f64,
    /// The highest value.
    pub high: f64,
    /// The unit of the values.
    pub unit: Unit,
}

impl Scale {
    /// Creates a scale for the finite `values` around `neutral`.
    pub fn around(
        name: impl Into<String>,
        columns: usize,
        neutral: f64,
        values: impl IntoIterator<Item = f64>,
    ) -> Self {
        let within = |(low, high): (f64, f64), x: f64| (low.min(x), high.max(x));
        let (low, high) =
            values.into_iter().filter(|x| x.is_finite()).fold((neutral, neutral), within);
        Self { name: name.into(), columns, low, neutral, high, unit: Unit::Number }
    }

    /// Whether all values are neutral up to rounding.
    pub(super) fn is_flat(&self) -> bool {
        self.high - self.low <= 1e-12 + 1e-6 * self.neutral.abs()
    }

    /// Maps `x` to -1..1, symmetric around neutral.
    pub(super) fn place(&self, x: f64) -> f64 {
        let half = (self.high - self.neutral).max(self.neutral - self.low);
        if !self.is_flat() { ((x - self.neutral) / half).clamp(-1.0, 1.0) } else { 0.0 }
    }

    fn colour(&self, x: f64) -> (u8, u8, u8) {
        const NEUTRAL: [f64; 3] = [245.0, 245.0, 245.0];
        const ABOVE: [[f64; 3]; 2] = [[82.0, 150.0, 206.0], [8.0, 48.0, 107.0]];
        const BELOW: [[f64; 3]; 2] = [[224.0, 148.0, 60.0], [108.0, 48.0, 5.0]];
        let t = self.place(x);
        let [middle, end] = if t > 0.0 { ABOVE } else { BELOW };
        let t = t.abs() * 2.0;
        let (from, to, t) = if t < 1.0 { (NEUTRAL, middle, t) } else { (middle, end, t - 1.0) };
        let mix = |i: usize| (from[i] + t * (to[i] - from[i])).round() as u8;
        (mix(0), mix(1), mix(2))
    }
}

/// Returns a text colour legible on the cell.
fn on((r, g, b): (u8, u8, u8)) -> Colour {
    let light = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    if light > 120.0 { Colour::Rgb(20, 20, 20) } else { Colour::Rgb(255, 255, 255) }
}

impl Heatmap {
    /// Returns the scale of column `j`.
    pub(super) fn scale(&self, j: usize) -> Option<&Scale> {
        let mut end = 0;
        let found = self.scales.iter().find(|scale| {
            end += scale.columns;
            j < end
        });
        found.or(self.scales.last())
    }

    /// Returns the value of a cell, if there is one.
    pub(super) fn value(&self, i: usize, j: usize) -> Option<f64> {
        self.values.get(i)?.get(j).copied().filter(|x| x.is_finite())
    }

    /// Whether a scale other than the first starts at column `j`.
    pub(super) fn begins(&self, j: usize) -> bool {
        let ends = self.scales.iter().scan(0, |end, scale| {
            *end += scale.columns;
            Some(*end)
        });
        j > 0 && ends.take(self.scales.len().saturating_sub(1)).any(|end| end == j)
    }

    pub(super) fn draw(&self, labels: &Labels<'_>, scene: &mut Scene, top: f64) -> f64 {
        const GAP: f64 = 10.0;
        let (rows, columns) = (self.rows.len(), self.columns.len());
        if rows == 0 || columns == 0 {
            return nothing(scene, top);
        }
        let names: Vec<String> =
            self.rows.iter().map(|name| shortened(name, SMALL, 230.0)).collect();
        let left = 16.0 + names.iter().map(|name| width(name, SMALL)).fold(0.0, f64::max);
        let gaps = (0..columns).filter(|j| self.begins(*j)).count() as f64 * GAP;
        let wide = ((WIDTH - 16.0 - left - gaps) / columns as f64).min(150.0);
        let high = if rows <= 6 && wide < 30.0 {
            44.0
        } else {
            (900.0 / rows as f64).clamp(2.0, if rows > 24 { 15.0 } else { 19.0 })
        };
        let x = |j: usize| {
            left + wide * j as f64
                + GAP * (1..=j.min(columns - 1)).filter(|k| self.begins(*k)).count() as f64
        };
        // Column names go above if all fit; else some of them go below.
        let all = wide >= 34.0;
        let top = if all { top + 18.0 } else { top };
        let bottom = top + high * rows as f64;
        let middle = |i: usize| top + high * (i as f64 + 0.5);

        let every = (13.0 / high).ceil().max(1.0) as usize;
        for (i, name) in names.iter().enumerate().step_by(every) {
            scene.text((left - 6.0, middle(i)), name.clone(), Anchor::Right, Colour::Ink);
        }
        for i in 0..rows {
            for j in 0..columns {
                let (Some(value), Some(scale)) = (self.value(i, j), self.scale(j)) else {
                    continue;
                };
                let (r, g, b) = scale.colour(value);
                let (from, to) =
                    ((x(j), top + high * i as f64), (x(j) + wide, top + high * (i + 1) as f64));
                scene.fill(from, to, Colour::Rgb(r, g, b));
                let text = scale.unit.write(value);
                if high >= 13.0 && width(&text, SMALL) + 4.0 <= wide {
                    scene.text((x(j) + wide / 2.0, middle(i)), text, Anchor::Middle, on((r, g, b)));
                }
            }
        }
        let mut end = bottom;
        if all {
            for (j, name) in self.columns.iter().enumerate() {
                let name = shortened(name, SMALL, wide - 4.0);
                scene.text((x(j) + wide / 2.0, top - 9.0), name, Anchor::Middle, Colour::Ink);
            }
        } else {
            let widest = self.columns.iter().map(|name| width(name, SMALL)).fold(0.0, f64::max);
            let every = round_step((widest + 14.0) / wide).max(1.0) as usize;
            for (j, name) in self.columns.iter().enumerate().step_by(every) {
                let middle = x(j) + wide / 2.0;
                scene.line(vec![(middle, bottom), (middle, bottom + 4.0)], 1.0, Colour::Ink);
                scene.text((middle, bottom + 12.0), name.clone(), Anchor::Middle, Colour::Ink);
            }
            end += 20.0;
            if !labels.x.is_empty() {
                let across = (x(0) + x(columns - 1) + wide) / 2.0;
                scene.text((across, end + 6.0), labels.x, Anchor::Middle, Colour::Ink);
                end += 14.0;
            }
        }
        self.scales.iter().fold(end + 8.0, |end, scale| key(scene, scale, left, end))
    }
}

/// Draws the legend of a scale. Returns its lower edge.
fn key(scene: &mut Scene, scale: &Scale, left: f64, top: f64) -> f64 {
    const WIDE: f64 = 150.0;
    const PARTS: usize = 50;
    let middle = top + SMALL / 2.0 + 2.0;
    if scale.is_flat() {
        let text = format!("{} {} everywhere", scale.name, scale.unit.write(scale.neutral));
        let text = shortened(&text, SMALL, WIDTH - 8.0 - left);
        scene.text((left, middle), text, Anchor::Left, Colour::Ink);
        return top + SMALL + 8.0;
    }
    let low = scale.unit.write(scale.low);
    let inside = scale.low < scale.neutral && scale.neutral < scale.high;
    let neutral = if inside {
        format!(", {} is neutral", scale.unit.write(scale.neutral))
    } else {
        String::new()
    };
    let text = format!("{}  {}{neutral}", scale.unit.write(scale.high), scale.name);
    // Moved left if it would not fit.
    let takes = width(&low, SMALL) + WIDE + 12.0 + width(&text, SMALL);
    let left = left.min(WIDTH - 8.0 - takes).max(8.0);
    scene.text((left, middle), low.clone(), Anchor::Left, Colour::Ink);
    let from = left + width(&low, SMALL) + 6.0;
    for part in 0..PARTS {
        let value = scale.low + (scale.high - scale.low) * (part as f64 + 0.5) / PARTS as f64;
        let x = |part: usize| from + WIDE * part as f64 / PARTS as f64;
        let (r, g, b) = scale.colour(value);
        scene.fill((x(part), middle - 5.0), (x(part + 1), middle + 5.0), Colour::Rgb(r, g, b));
    }
    let text = shortened(&text, SMALL, WIDTH - 14.0 - from - WIDE);
    scene.text((from + WIDE + 6.0, middle), text, Anchor::Left, Colour::Ink);
    top + SMALL + 8.0
}
