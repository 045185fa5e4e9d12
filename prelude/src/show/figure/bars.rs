//! Horizontal bars: in every group one bar per series, labelled with its name and value.

use super::axis::{Axis, Spacing};
use super::curves::nothing;
use super::scene::{Anchor, Colour, SMALL, Scene, WIDTH, series_colour, shortened, width};
use super::unit::Labels;

/// A bar chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// The names of the groups.
    pub groups: Vec<String>,
    /// The name of each series, and its values by group; NaN for none.
    pub series: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// Returns the axis from 0 (or the lowest value) to the highest; `None` if there is nothing to
    /// draw.
    pub(super) fn axis(&self) -> Option<Axis> {
        let values: Vec<f64> =
            self.series.iter().flat_map(|(_, v)| v).copied().filter(|x| x.is_finite()).collect();
        let around = (!values.is_empty() && !self.groups.is_empty())
            .then(|| values.into_iter().chain([0.0]));
        let axis = Axis::around(around?, Spacing::Linear)?;
        // If all values are 0, the bars are empty.
        Some(if axis.low == -axis.high { Axis { low: 0.0, ..axis } } else { axis })
    }

    pub(super) fn value(&self, series: usize, group: usize) -> Option<f64> {
        self.series.get(series)?.1.get(group).copied().filter(|x| x.is_finite())
    }

    pub(super) fn draw(&self, labels: &Labels<'_>, scene: &mut Scene, top: f64) -> f64 {
        const HIGH: f64 = 15.0;
        let Some(axis) = self.axis() else { return nothing(scene, top) };
        let several = self.series.len() > 1;
        let widest = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|name| width(&shortened(name, SMALL, 170.0), SMALL)).fold(0.0, f64::max)
        };
        let groups = 16.0 + widest(&mut self.groups.iter());
        let left = if several {
            groups + 14.0 + widest(&mut self.series.iter().map(|(name, _)| name))
        } else {
            groups
        };
        let values = (0..self.series.len())
            .flat_map(|i| (0..self.groups.len()).filter_map(move |j| self.value(i, j)));
        let room = values.map(|x| width(&labels.unit.write(x), SMALL)).fold(0.0, f64::max) + 12.0;
        let right = WIDTH - 8.0 - room;
        // Labels of negative bars go to the left.
        let left = if axis.low < 0.0 { left + room } else { left };
        let x = |value: f64| left + (right - left) * axis.place(value);
        let mut y = top + 2.0;
        for (j, group) in self.groups.iter().enumerate() {
            let high = HIGH * self.series.len() as f64;
            scene.text(
                (8.0, y + high / 2.0),
                shortened(group, SMALL, 170.0),
                Anchor::Left,
                Colour::Ink,
            );
            for (i, (name, _)) in self.series.iter().enumerate() {
                let middle = y + HIGH / 2.0;
                if several {
                    let foot = left - 6.0 - if axis.low < 0.0 { room } else { 0.0 };
                    scene.text(
                        (foot, middle),
                        shortened(name, SMALL, 170.0),
                        Anchor::Right,
                        Colour::Ink,
                    );
                }
                match self.value(i, j) {
                    Some(value) => {
                        let (from, to) = (x(value.min(0.0)), x(value.max(0.0)));
                        scene.fill(
                            (from, middle - 5.5),
                            (to.max(from + 0.5), middle + 5.5),
                            series_colour(i),
                        );
                        let (at, anchor) = if value < 0.0 {
                            (from - 5.0, Anchor::Right)
                        } else {
                            (to + 5.0, Anchor::Left)
                        };
                        scene.text((at, middle), labels.unit.write(value), anchor, Colour::Ink);
                    }
                    None => scene.text((x(0.0) + 5.0, middle), "-", Anchor::Left, Colour::Ink),
                }
                y += HIGH;
            }
            if several && j + 1 < self.groups.len() {
                scene.line(vec![(8.0, y + 4.0), (WIDTH - 8.0, y + 4.0)], 1.0, Colour::Faint);
                y += 8.0;
            } else {
                y += 3.0;
            }
        }
        scene.line(vec![(x(0.0), top), (x(0.0), y)], 1.0, Colour::Ink);
        if !labels.x.is_empty() {
            scene.text((left, y + 10.0), labels.x, Anchor::Left, Colour::Ink);
            y += 18.0;
        }
        y
    }
}
