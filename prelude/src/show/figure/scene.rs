//! A figure laid out as lines, boxes and text, in pixels from the upper left, for plotters to
//! paint.

/// The width of every figure in pixels.
pub(super) const WIDTH: f64 = 640.0;

/// The size of most text in pixels.
pub(super) const SMALL: f64 = 11.0;
const TITLE: f64 = 14.0;
const MARGIN: f64 = 8.0;

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Colour {
    /// The text colour.
    Ink,
    /// A faint text colour, for grids.
    Faint,
    /// A fixed colour.
    Rgb(u8, u8, u8),
}

/// Returns the colour of a series; series also differ by marker.
pub(super) fn series_colour(i: usize) -> Colour {
    // Okabe and Ito without black and yellow, which are invisible on one of the two themes.
    const COLOURS: [Colour; 7] = [
        Colour::Rgb(0, 114, 178),
        Colour::Rgb(230, 159, 0),
        Colour::Rgb(0, 158, 115),
        Colour::Rgb(204, 121, 167),
        Colour::Rgb(86, 180, 233),
        Colour::Rgb(213, 94, 0),
        Colour::Rgb(128, 128, 128),
    ];
    COLOURS[i % COLOURS.len()]
}

/// The position of text relative to its point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Anchor {
    Left,
    Middle,
    Right,
}

/// A shape to paint.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Line { points: Vec<(f64, f64)>, width: f64, colour: Colour },
    Box { from: (f64, f64), to: (f64, f64), colour: Colour },
    Polygon { points: Vec<(f64, f64)>, colour: Colour },
    Text { at: (f64, f64), text: String, size: f64, anchor: Anchor, colour: Colour, style: Style },
}

/// The style of text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Style {
    Plain,
    Bold,
    /// Rotated, read from bottom to top.
    Rotated,
}

/// All shapes of a figure.
#[derive(Debug)]
pub(super) struct Scene {
    pub height: f64,
    pub shapes: Vec<Shape>,
}

impl Scene {
    pub fn new() -> Self {
        Self { height: 0.0, shapes: Vec::new() }
    }

    /// Adds the title. Returns the top of the figure.
    pub fn title(&mut self, title: &str) -> f64 {
        let mut y = MARGIN;
        for line in wrapped(title, TITLE, WIDTH - 2.0 * MARGIN) {
            y += TITLE + 4.0;
            let style = Style::Bold;
            let at = (MARGIN, y - TITLE / 2.0);
            self.shapes.push(Shape::Text {
                at,
                text: line,
                size: TITLE,
                anchor: Anchor::Left,
                colour: Colour::Ink,
                style,
            });
        }
        y + 6.0
    }

    /// Adds `notes` below the figure, which ends at `bottom`.
    pub fn finish(&mut self, bottom: f64, notes: &[String]) {
        let mut y = bottom;
        for line in notes.iter().flat_map(|note| wrapped(note, SMALL, WIDTH - 2.0 * MARGIN)) {
            y += SMALL + 4.0;
            self.text((MARGIN, y - SMALL / 2.0), line, Anchor::Left, Colour::Ink);
        }
        self.height = (y + MARGIN).ceil();
    }

    pub fn text(
        &mut self,
        at: (f64, f64),
        text: impl Into<String>,
        anchor: Anchor,
        colour: Colour,
    ) {
        self.shapes.push(Shape::Text {
            at,
            text: text.into(),
            size: SMALL,
            anchor,
            colour,
            style: Style::Plain,
        });
    }

    pub fn rotated_text(&mut self, at: (f64, f64), text: &str) {
        let (text, anchor, style) = (text.to_owned(), Anchor::Middle, Style::Rotated);
        self.shapes.push(Shape::Text { at, text, size: SMALL, anchor, colour: Colour::Ink, style });
    }

    pub fn line(&mut self, points: Vec<(f64, f64)>, width: f64, colour: Colour) {
        self.shapes.push(Shape::Line { points, width, colour });
    }

    pub fn fill(&mut self, from: (f64, f64), to: (f64, f64), colour: Colour) {
        self.shapes.push(Shape::Box { from, to, colour });
    }

    /// Draws the marker of series `i` at a point.
    pub fn marker(&mut self, i: usize, (x, y): (f64, f64), colour: Colour) {
        const R: f64 = 4.0;
        let mut polygon = |points: &[(f64, f64)]| {
            let points = points.iter().map(|(dx, dy)| (x + R * dx, y + R * dy)).collect();
            self.shapes.push(Shape::Polygon { points, colour });
        };
        // When colours repeat, markers differ.
        match (i + i / 7) % 7 {
            0 => polygon(&std::array::from_fn::<_, 16, _>(|k| {
                let (sin, cos) = (std::f64::consts::TAU * k as f64 / 16.0).sin_cos();
                (cos, sin)
            })),
            1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            2 => polygon(&[(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)]),
            3 => polygon(&[(0.0, -1.3), (1.1, 0.0), (0.0, 1.3), (-1.1, 0.0)]),
            4 => polygon(&[(-1.1, -0.85), (1.1, -0.85), (0.0, 1.15)]),
            5 => {
                polygon(&[(-1.2, -0.35), (1.2, -0.35), (1.2, 0.35), (-1.2, 0.35)]);
                polygon(&[(-0.35, -1.2), (0.35, -1.2), (0.35, 1.2), (-0.35, 1.2)]);
            }
            _ => {
                for s in [1.0, -1.0] {
                    polygon(&[(-1.1, -0.6 * s), (-0.6, -1.1 * s), (1.1, 0.6 * s), (0.6, 1.1 * s)]);
                }
            }
        }
    }

    /// Adds a legend from `left` on, in as many lines as needed. Returns its lower edge.
    pub fn legend(
        &mut self,
        left: f64,
        top: f64,
        entries: &[(String, Colour, Option<usize>)],
    ) -> f64 {
        const SIGN: f64 = 26.0;
        const GAP: f64 = 14.0;
        let (mut x, mut y) = (left, top);
        for (name, colour, marker) in entries {
            let name = shortened(name, SMALL, 220.0);
            let wide = SIGN + width(&name, SMALL);
            if x > left && x + wide > WIDTH - MARGIN {
                (x, y) = (left, y + SMALL + 7.0);
            }
            let middle = y + SMALL / 2.0;
            self.line(vec![(x, middle), (x + 20.0, middle)], 2.0, *colour);
            if let Some(i) = marker {
                self.marker(*i, (x + 10.0, middle), *colour);
            }
            self.text((x + SIGN, middle), name, Anchor::Left, Colour::Ink);
            x += wide + GAP;
        }
        y + SMALL + 9.0
    }
}

/// Returns the approximate width of `text` in pixels; viewers' fonts differ.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let one = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '(' | ')' | '[' | ']'
        | ' ' => 0.34,
        'f' | 't' | 'r' | '-' | '/' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' => 0.92,
        'A'..='Z' => 0.70,
        c if (c as u32) > 0x2e80 => 1.0,
        _ => 0.59,
    };
    text.chars().map(one).sum::<f64>() * size
}

/// Shortens `text` to `room` pixels and keeps its end, which distinguishes names of tensors.
pub(super) fn shortened(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let ends = text.char_indices().map(|(i, _)| &text[i..]);
    let fits = ends.skip(1).find(|end| width(end, size) + size <= room);
    format!("…{}", fits.unwrap_or_default())
}

/// Wraps `text` between words into lines of at most `room` pixels.
fn wrapped(text: &str, size: f64, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line, size) + width(word, size) + size / 2.0 <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(shortened(word, size, room)),
        }
    }
    lines
}
