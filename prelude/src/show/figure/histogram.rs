//! Histograms: the fraction of each series' values per bin, as an outline.

use super::axis::{Axis, Spacing};
use super::curves::{Plot, PlotLine, nothing};
use super::scene::Scene;
use super::unit::{Labels, Unit};

/// Counts in bins of equal width.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The lower edge of the first bin.
    pub from: f64,
    /// The upper edge of the last bin.
    pub to: f64,
    /// The name and counts of each series.
    pub series: Vec<(String, Vec<u64>)>,
}

impl Histogram {
    /// Returns the largest number of bins of any series.
    pub(super) fn bins(&self) -> usize {
        self.series.iter().map(|(_, counts)| counts.len()).max().unwrap_or(0)
    }

    /// Returns the fraction of a series in each bin.
    pub(super) fn shares(counts: &[u64]) -> Vec<f64> {
        let total = counts.iter().map(|n| *n as f64).sum::<f64>().max(1.0);
        counts.iter().map(|n| *n as f64 / total).collect()
    }

    /// Returns the largest fraction, above 0; `None` if there is nothing to draw.
    pub(super) fn most(&self) -> Option<f64> {
        let most =
            self.series.iter().flat_map(|(_, counts)| Self::shares(counts)).fold(0.0, f64::max);
        (most > 0.0 && self.from.is_finite() && self.to.is_finite()).then_some(most)
    }

    pub(super) fn draw(&self, labels: &Labels<'_>, scene: &mut Scene, top: f64) -> f64 {
        let axis = |low: f64, high: f64| Axis::around([low, high], Spacing::Linear);
        let (Some(most), Some(x)) = (self.most(), axis(self.from, self.to)) else {
            return nothing(scene, top);
        };
        let Some(y) = axis(0.0, most).map(Axis::padded) else { return nothing(scene, top) };
        let edge = |i: usize| self.from + (self.to - self.from) * i as f64 / self.bins() as f64;
        let line = |(sign, (name, counts)): (usize, &(String, Vec<u64>))| {
            let steps = Self::shares(counts).into_iter().enumerate();
            let mut points: Vec<(f64, f64)> =
                steps.flat_map(|(i, share)| [(edge(i), share), (edge(i + 1), share)]).collect();
            points.insert(0, (self.from, 0.0));
            points.push((self.to, 0.0));
            PlotLine { name: name.clone(), points, sign: Some(sign) }
        };
        let lines: Vec<PlotLine> = self.series.iter().enumerate().map(line).collect();
        Plot { labels, x, y, unit: Unit::Percent }.draw(scene, top, &lines)
    }
}
