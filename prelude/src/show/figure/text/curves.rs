//! Curves: the main (or only) one is large; each other one is a single line, so none hides another.

use super::canvas::Canvas;
use super::{Figure, TextArea, block, column, grouped, left, right};
use crate::show::figure::axis::{Axis, written};
use crate::show::figure::curves::NOTHING;
use crate::show::figure::{Curves, Histogram, Series, Spacing};
use crate::show::numbers::brief;

const ROWS: usize = 10;

pub(super) fn draw(figure: &Figure, curves: &Curves, area: TextArea) -> Vec<String> {
    let Some((x, _)) = curves.axes() else { return vec![NOTHING.into()] };
    let only = curves.series.len() == 1;
    let (large, small): (Vec<&Series>, Vec<&Series>) =
        curves.series.iter().partition(|s| s.is_main || only);
    let mut lines = Vec::new();
    for series in large {
        lines.extend(one(curves, series, x, area));
    }
    let names: Vec<String> = small.iter().map(|s| curves.label(s)).collect();
    let wide = column(names.iter().map(String::as_str), area, 0.35);
    for (series, name) in small.iter().zip(&names) {
        let points = curves.shown(series);
        let ends = match (points.first(), points.last()) {
            (Some(first), Some(last)) => format!(" {} .. {}", brief(first.1), brief(last.1)),
            _ => String::new(),
        };
        let line = area.width.saturating_sub(wide + 1 + 22).clamp(4, 60);
        lines.push(format!(
            "{} {}{ends}",
            left(name, wide),
            spark(&points, x, curves.spacing, line, area.ascii)
        ));
    }
    let spacing = if curves.spacing == Spacing::Log { ", logarithmic" } else { "" };
    let what = if figure.y.is_empty() { String::new() } else { format!("{}{spacing}, ", figure.y) };
    if !figure.x.is_empty() {
        lines.push(format!(
            "{what}over {} {} to {}",
            figure.x,
            written(x.low.max(first(curves))),
            written(x.high.min(last(curves)))
        ));
    }
    lines
}

fn first(curves: &Curves) -> f64 {
    curves.series.iter().flat_map(|s| curves.shown(s)).map(|(x, _)| x).fold(f64::INFINITY, f64::min)
}

fn last(curves: &Curves) -> f64 {
    curves
        .series
        .iter()
        .flat_map(|s| curves.shown(s))
        .map(|(x, _)| x)
        .fold(f64::NEG_INFINITY, f64::max)
}

/// Draws one large curve with its name, maximum and minimum at the side.
fn one(curves: &Curves, series: &Series, x: Axis, area: TextArea) -> Vec<String> {
    let points = curves.shown(series);
    let Some(y) = Axis::around(points.iter().map(|(_, y)| *y), curves.spacing).map(Axis::padded)
    else {
        return vec![curves.label(series)];
    };
    let bound =
        |f: fn(f64, f64) -> f64, from: f64| brief(points.iter().map(|(_, y)| *y).fold(from, f));
    let (high, low) = (bound(f64::max, f64::NEG_INFINITY), bound(f64::min, f64::INFINITY));
    let side = column([series.name.as_str(), &high, &low].into_iter(), area, 0.3);
    let mut canvas = Canvas::new(area.width.saturating_sub(side + 2).max(1), ROWS, area.ascii);
    let at = |(px, py): (f64, f64)| (x.place(px), y.place(py));
    let ends = points.iter().skip(1).chain(points.last());
    points.iter().zip(ends).for_each(|(from, to)| canvas.line(at(*from), at(*to)));
    let bar = if area.ascii { '|' } else { '│' };
    let label = |row: usize| match row {
        0 => high.as_str(),
        row if row + 1 == ROWS => low.as_str(),
        row if row == ROWS / 2 => series.name.as_str(),
        _ => "",
    };
    canvas
        .lines()
        .into_iter()
        .enumerate()
        .map(|(row, line)| format!("{} {bar}{line}", right(label(row), side)))
        .collect()
}

/// Draws a curve as one line of blocks between its own bounds.
fn spark(points: &[(f64, f64)], x: Axis, spacing: Spacing, width: usize, ascii: bool) -> String {
    let Some(y) = Axis::around(points.iter().map(|(_, y)| *y), spacing) else {
        return " ".repeat(width);
    };
    let mut columns: Vec<(f64, usize)> = vec![(0.0, 0); width];
    for (px, py) in points {
        let place = ((x.place(*px) * width as f64) as usize).min(width - 1);
        columns[place] = (columns[place].0 + y.place(*py), columns[place].1 + 1);
    }
    // Between distant points the level stays constant.
    let mut level = None;
    let one = |(sum, count): (f64, usize)| {
        level = if count > 0 { Some(sum / count as f64) } else { level };
        level.map_or(' ', |share| block(0.125 + 0.875 * share, ascii))
    };
    columns.into_iter().map(one).collect()
}

/// Draws each series as a few lines of blocks.
pub(super) fn histogram(figure: &Figure, histogram: &Histogram, area: TextArea) -> Vec<String> {
    const HIGH: usize = 4;
    let Some(most) = histogram.most() else { return vec![NOTHING.into()] };
    let side = column(histogram.series.iter().map(|(name, _)| name.as_str()), area, 0.3);
    let width = area.width.saturating_sub(side + 2).max(1);
    let bar = if area.ascii { '|' } else { '│' };
    let mut lines = Vec::new();
    for (name, counts) in &histogram.series {
        let shares = grouped(&Histogram::shares(counts), counts.len().clamp(1, width));
        // Bins are as wide as fits.
        let wide = (width / shares.len()).max(1);
        for row in (0..HIGH).rev() {
            let level = |share: f64| {
                if share.is_finite() { share / most * HIGH as f64 - row as f64 } else { 0.0 }
            };
            // Non-zero bins are always visible.
            let seen = |share: f64| {
                if row == 0 && share > 0.0 { level(share).max(0.125) } else { level(share) }
            };
            let line: String = shares
                .iter()
                .map(|s| block(seen(*s), area.ascii).to_string().repeat(wide))
                .collect();
            let label = if row == 0 { name.as_str() } else { "" };
            lines.push(format!("{} {bar}{line}", right(label, side)));
        }
    }
    let x = if figure.x.is_empty() { String::new() } else { format!("{} ", figure.x) };
    lines.push(format!(
        "{x}{} to {}, highest {:.0}%",
        brief(histogram.from),
        brief(histogram.to),
        100.0 * most
    ));
    lines
}
