//! Heatmaps: values if they fit, otherwise shades.

use super::{Figure, TextArea, column, grouped, left, right, wrapped};
use crate::show::figure::Heatmap;
use crate::show::figure::curves::NOTHING;
use crate::show::figure::heatmap::Scale;

/// The minimum number of columns per value.
const CELL: usize = 8;

pub(super) fn draw(figure: &Figure, map: &Heatmap, area: TextArea) -> Vec<String> {
    if map.rows.is_empty() || map.columns.is_empty() {
        return vec![NOTHING.into()];
    }
    let count = map.columns.len();
    // Row names are shortened in favour of values.
    let side = column(map.rows.iter().map(String::as_str), area, 0.45)
        .min(area.width.saturating_sub(1 + count * CELL).max(12));
    let free = area.width.saturating_sub(side + 1);
    let mut lines = if free / count >= CELL {
        values(map, side, (free / count).min(18), area)
    } else {
        shades(figure, map, side, area)
    };
    lines.extend(map.scales.iter().flat_map(|scale| wrapped(&key(scale, area), area.width)));
    lines
}

/// Returns the shade of a value, from the scale's lowest to its highest.
fn shade(scale: &Scale, value: f64, ascii: bool) -> char {
    const BLOCKS: [char; 5] = ['·', '░', '▒', '▓', '█'];
    const LETTERS: [char; 5] = ['.', ':', '+', '*', '#'];
    let share = if !scale.is_flat() { (value - scale.low) / (scale.high - scale.low) } else { 0.0 };
    let level = (share.clamp(0.0, 1.0) * 4.0).round() as usize;
    if ascii { LETTERS[level] } else { BLOCKS[level] }
}

fn values(map: &Heatmap, side: usize, wide: usize, area: TextArea) -> Vec<String> {
    let head: String = map
        .columns
        .iter()
        .map(|name| right(&format!(" {}", super::ending(name, wide - 1)), wide))
        .collect();
    let mut lines = vec![format!("{}{head}", " ".repeat(side + 1))];
    for (i, name) in map.rows.iter().enumerate() {
        let cell = |j: usize| match (map.value(i, j), map.scale(j)) {
            (Some(value), Some(scale)) => {
                let shade = shade(scale, value, area.ascii).to_string();
                let shades = if wide >= 10 { 2 } else { usize::from(wide >= 9) };
                right(&format!(" {} {}", shade.repeat(shades), scale.unit.write(value)), wide)
            }
            _ => right("-", wide),
        };
        lines.push(format!(
            "{} {}",
            left(name, side),
            (0..map.columns.len()).map(cell).collect::<String>()
        ));
    }
    lines
}

fn shades(figure: &Figure, map: &Heatmap, side: usize, area: TextArea) -> Vec<String> {
    let count = map.columns.len();
    let cells = area.width.saturating_sub(side + 2).clamp(1, count);
    let mut lines = Vec::new();
    for (i, name) in map.rows.iter().enumerate() {
        let row: Vec<f64> = (0..count).map(|j| map.value(i, j).unwrap_or(f64::NAN)).collect();
        let one = |(k, value): (usize, f64)| match map.scale(k * count / cells) {
            Some(scale) if value.is_finite() => shade(scale, value, area.ascii),
            _ => ' ',
        };
        let row: String = grouped(&row, cells).into_iter().enumerate().map(one).collect();
        lines.push(format!("{} {row}", left(name, side)));
    }
    if let (Some(first), Some(last)) = (map.columns.first(), map.columns.last()) {
        let x = if figure.x.is_empty() { "columns" } else { &figure.x };
        let several = if cells < count {
            format!(", each character the mean of about {}", (count as f64 / cells as f64).round())
        } else {
            String::new()
        };
        lines.extend(wrapped(&format!("{x} {first} to {last}{several}"), area.width));
    }
    lines
}

/// Returns the legend of a scale's shades.
fn key(scale: &Scale, area: TextArea) -> String {
    let value = |share: f64| scale.low + share * (scale.high - scale.low);
    if scale.is_flat() {
        return format!("{}: {} everywhere", scale.name, scale.unit.write(scale.neutral));
    }
    let one = |i: usize| {
        let value = value(i as f64 / 4.0);
        format!("{} {}", shade(scale, value, area.ascii), scale.unit.write(value))
    };
    format!("{}: {}", scale.name, (0..5).map(one).collect::<Vec<_>>().join("  "))
}
