//! The unit of a figure's values, and the labels of its axes.

use crate::show::numbers::brief;

/// The unit of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Plain numbers.
    #[default]
    Number,
    /// Fractions of 1, written as percentages.
    Percent,
}

impl Unit {
    /// Formats a value with about three digits.
    pub(super) fn write(self, x: f64) -> String {
        match self {
            Unit::Percent => format!("{:.1}%", 100.0 * x),
            Unit::Number => brief(x),
        }
    }
}

/// The labels of a figure's axes, which may be empty, and the unit of its values.
pub(super) struct Labels<'a> {
    pub x: &'a str,
    pub y: &'a str,
    pub unit: Unit,
}
