//! Figures as text: Braille dots and blocks, or plain ASCII; no colours.

mod bars;
mod canvas;
mod curves;
mod heatmap;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Figure, Mark};

/// The space available for a figure.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextArea {
    /// Columns.
    pub width: usize,
    /// Whether only ASCII is allowed.
    pub ascii: bool,
}

impl Figure {
    /// Returns the figure as text in lines of at most `width` columns; with `ascii`, in plain
    /// ASCII.
    pub fn text(&self, width: usize, ascii: bool) -> String {
        // Below a minimum width, lines are cut.
        let area = TextArea { width: width.max(24), ascii };
        let mut lines = wrapped(&self.title, area.width);
        lines.extend(match &self.mark {
            Mark::Curves(curves) => curves::draw(self, curves, area),
            Mark::Histogram(histogram) => curves::histogram(self, histogram, area),
            Mark::Heatmap(heatmap) => heatmap::draw(self, heatmap, area),
            Mark::Bars(bars) => bars::draw(self, bars, area),
        });
        lines.extend(self.notes.iter().flat_map(|note| wrapped(note, area.width)));
        let plain = |line: String| {
            if ascii {
                line.replace('…', ".").replace(|c: char| !c.is_ascii(), "?")
            } else {
                line
            }
        };
        let lines: Vec<String> =
            lines.into_iter().map(|line| cut(plain(line).trim_end(), width)).collect();
        lines.join("\n")
    }
}

/// Maps a level from 0 to 1 to a character: a partly filled block, or a darker letter.
fn block(share: f64, ascii: bool) -> char {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const LETTERS: [char; 9] = [' ', '_', '.', ':', '-', '=', '+', '*', '#'];
    let level = (share.clamp(0.0, 1.0) * 8.0).round() as usize;
    if ascii { LETTERS[level] } else { BLOCKS[level] }
}

/// Averages the finite `values` in each of `count` groups; NaN for an empty group.
fn grouped(values: &[f64], count: usize) -> Vec<f64> {
    let count = count.max(1);
    let mean = |k: usize| {
        let (from, to) = (k * values.len() / count, ((k + 1) * values.len()).div_ceil(count));
        let finite: Vec<f64> =
            values[from..to.min(values.len())].iter().copied().filter(|x| x.is_finite()).collect();
        if finite.is_empty() { f64::NAN } else { finite.iter().sum::<f64>() / finite.len() as f64 }
    };
    (0..count).map(mean).collect()
}

/// Pads `text` on the right to exactly `width` columns; a longer text keeps its end.
fn left(text: &str, width: usize) -> String {
    let text = ending(text, width);
    let pad = width.saturating_sub(text.width());
    text + &" ".repeat(pad)
}

/// Pads `text` on the left to exactly `width` columns.
fn right(text: &str, width: usize) -> String {
    let text = ending(text, width);
    " ".repeat(width.saturating_sub(text.width())) + &text
}

/// Returns `text`, or `…` and its end, in at most `width` columns.
fn ending(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let ends = text.char_indices().map(|(i, _)| &text[i..]);
    let fits = ends.skip(1).find(|end| end.width() < width);
    cut(&format!("…{}", fits.unwrap_or_default()), width)
}

/// Returns the first `width` columns of `line`.
fn cut(line: &str, width: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    line.chars().filter(|c| !c.is_control()).take_while(fits).collect()
}

/// Wraps `text` between words into lines of at most `width` columns.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(cut(word, width)),
        }
    }
    lines
}

/// Returns the width of the widest of `names`, limited to a fraction of the room.
fn column<'a>(names: impl Iterator<Item = &'a str>, area: TextArea, share: f64) -> usize {
    let widest = names.map(UnicodeWidthStr::width).max().unwrap_or(0);
    widest.min((area.width as f64 * share) as usize).max(1)
}
