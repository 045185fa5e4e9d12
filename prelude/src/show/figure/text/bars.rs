//! Bars: one per line, with the value at the end.

use unicode_width::UnicodeWidthStr;

use super::{Figure, TextArea, column, left};
use crate::show::figure::Bars;
use crate::show::figure::curves::NOTHING;

pub(super) fn draw(figure: &Figure, bars: &Bars, area: TextArea) -> Vec<String> {
    if bars.axis().is_none() {
        return vec![NOTHING.into()];
    }
    let several = bars.series.len() > 1;
    let groups: Vec<&str> = bars.groups.iter().map(String::as_str).collect();
    let series: Vec<&str> = bars.series.iter().map(|(name, _)| name.as_str()).collect();
    let wide = column(groups.iter().copied(), area, 0.3);
    let side = if several { column(series.iter().copied(), area, 0.25) } else { 0 };
    let write = |x: Option<f64>| x.map_or("-".into(), |x| figure.unit.write(x));
    let cells = (0..series.len()).flat_map(|i| (0..groups.len()).map(move |j| (i, j)));
    let value = cells.clone().map(|(i, j)| write(bars.value(i, j)).width()).max().unwrap_or(1);
    let length = area.width.saturating_sub(wide + side + value + 3).clamp(1, 50);
    let most =
        cells.filter_map(|(i, j)| bars.value(i, j)).fold(0.0, |most: f64, x| most.max(x.abs()));
    let mut lines = Vec::new();
    for (j, group) in groups.iter().enumerate() {
        for (i, name) in series.iter().enumerate() {
            let found = bars.value(i, j);
            let share = found.map_or(0.0, |x| if most > 0.0 { x.abs() / most } else { 0.0 });
            let foot = if several { format!(" {}", left(name, side)) } else { String::new() };
            let group = if i == 0 { group } else { "" };
            lines.push(format!(
                "{}{foot} {} {}",
                left(group, wide),
                bar(share, length, area.ascii),
                write(found)
            ));
        }
    }
    if !figure.x.is_empty() {
        lines.push(figure.x.clone());
    }
    lines
}

/// Returns a bar of a fraction of `length` columns, to an eighth of a column.
fn bar(share: f64, length: usize, ascii: bool) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * length as f64 * 8.0).round() as usize;
    if ascii {
        return "#".repeat((eighths + 4) / 8);
    }
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}
