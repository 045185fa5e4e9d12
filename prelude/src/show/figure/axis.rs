//! Axes: maps values to positions, and chooses the labelled values.

use crate::show::numbers::brief;

/// The spacing of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Linear.
    Linear,
    /// Logarithmic; non-positive values are omitted.
    Log,
}

/// The range of an axis: finite, `low < high`, and positive if logarithmic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
    pub spacing: Spacing,
}

/// The maximum number of decades of a logarithmic axis.
const DECADES: f64 = 6.0;

/// The largest value drawn; sums of larger ones overflow.
const MOST: f64 = 1e300;

impl Axis {
    /// Returns the axis that covers all finite `values`; `None` without any.
    pub fn around(values: impl IntoIterator<Item = f64>, spacing: Spacing) -> Option<Self> {
        let shown = |x: &f64| x.is_finite() && (spacing == Spacing::Linear || *x > 0.0);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for x in values.into_iter().filter(shown) {
            let x = x.clamp(-MOST, MOST);
            (low, high) = (low.min(x), high.max(x));
        }
        if low > high {
            return None;
        }
        if spacing == Spacing::Log {
            low = low.max(high / 10f64.powf(DECADES)).max(f64::MIN_POSITIVE);
            return Some(Self { low: low / 1.1, high: high * 1.1, spacing });
        }
        let pad = if high > low { 0.0 } else { (high.abs() / 2.0).max(1e-9) };
        Some(Self { low: low - pad, high: high + pad, spacing })
    }

    /// Adds a margin, but not below 0 unless a value is negative.
    pub fn padded(self) -> Self {
        if self.spacing == Spacing::Log {
            return self;
        }
        let room = 0.05 * (self.high - self.low);
        let low = if self.low >= 0.0 { (self.low - room).max(0.0) } else { self.low - room };
        Self { low, high: self.high + room, ..self }
    }

    /// Maps `x` to 0 (`low`) .. 1 (`high`).
    pub fn place(&self, x: f64) -> f64 {
        let share = match self.spacing {
            Spacing::Linear => (x.clamp(-MOST, MOST) - self.low) / (self.high - self.low),
            Spacing::Log => {
                (x.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
            }
        };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Returns at most about `most` round values.
    pub fn ticks(&self, most: usize) -> Vec<f64> {
        let within = |x: &f64| (self.low..=self.high).contains(x);
        if self.spacing == Spacing::Log {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            let of = |steps: &[f64]| -> Vec<f64> {
                let all =
                    decades.clone().flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
                all.filter(within).collect()
            };
            let found = [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]]
                .into_iter()
                .map(of)
                .find(|t| t.len() <= most + 2);
            let found = found.unwrap_or_else(|| of(&[1.0]));
            return if found.is_empty() { vec![self.low, self.high] } else { found };
        }
        let step = round_step((self.high - self.low) / most.max(1) as f64);
        let first = (self.low / step).ceil();
        // Removes the rounding error of values that should be 0.
        let tick = |i: usize| (first + i as f64) * step;
        let ticks: Vec<f64> =
            (0..=most + 1).map(tick).map(|x| if x.abs() < step * 1e-9 { 0.0 } else { x }).collect();
        ticks.into_iter().filter(|x| *x <= self.high + step * 1e-9).collect()
    }

    /// Formats [`Axis::ticks`].
    pub fn labels(&self, most: usize, write: impl Fn(f64) -> String) -> Vec<(f64, String)> {
        self.ticks(most).into_iter().map(|x| (x, write(x))).collect()
    }
}

/// Returns 1, 2 or 5 times a power of ten, at least `least`.
pub(super) fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= least * (1.0 - 1e-9));
    step.filter(|s| s.is_finite() && *s > 0.0).unwrap_or(1.0)
}

/// Formats integers as such and other numbers with up to three digits.
pub(super) fn written(x: f64) -> String {
    if x.fract() == 0.0 && x.abs() < 1e7 {
        return format!("{x:.0}");
    }
    let text = brief(x);
    if text.contains('e') {
        text
    } else {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}
