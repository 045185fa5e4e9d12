//! A grid of dots: eight per Braille character, or one per ASCII character.

/// Dots, each on or off.
pub(super) struct Canvas {
    columns: usize,
    rows: usize,
    ascii: bool,
    dots: Vec<bool>,
}

impl Canvas {
    /// Creates a canvas of `columns` x `rows` characters.
    pub fn new(columns: usize, rows: usize, ascii: bool) -> Self {
        let mut canvas = Self { columns, rows, ascii, dots: Vec::new() };
        canvas.dots = vec![false; canvas.wide() * canvas.high()];
        canvas
    }

    fn wide(&self) -> usize {
        self.columns * if self.ascii { 1 } else { 2 }
    }

    fn high(&self) -> usize {
        self.rows * if self.ascii { 1 } else { 4 }
    }

    /// Returns the dot at a position, both coordinates from 0 to 1, from the lower left.
    fn dot(&self, (x, y): (f64, f64)) -> (i64, i64) {
        let along = |share: f64, count: usize| {
            (share.clamp(0.0, 1.0) * (count.max(1) - 1) as f64).round() as i64
        };
        (along(x, self.wide()), along(1.0 - y, self.high()))
    }

    /// Draws a line between two positions.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        let ((x0, y0), (x1, y1)) = (self.dot(from), self.dot(to));
        let steps = (x1 - x0).abs().max((y1 - y0).abs()).max(1);
        for i in 0..=steps {
            let at = |from: i64, to: i64| {
                (from as f64 + (to - from) as f64 * i as f64 / steps as f64).round() as usize
            };
            let place = at(y0, y1) * self.wide() + at(x0, x1);
            if let Some(dot) = self.dots.get_mut(place) {
                *dot = true;
            }
        }
    }

    /// Returns the characters, row by row from the top.
    pub fn lines(&self) -> Vec<String> {
        let on = |x: usize, y: usize| self.dots.get(y * self.wide() + x).copied().unwrap_or(false);
        let braille = |row: usize, column: usize| {
            // The bits of a Braille character's dots, two per row.
            const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
            let bit = |(dy, dx): (usize, usize)| {
                if on(2 * column + dx, 4 * row + dy) { BITS[dy][dx] } else { 0 }
            };
            let bits: u32 = (0..4).flat_map(|dy| [(dy, 0), (dy, 1)]).map(bit).sum();
            if bits == 0 { ' ' } else { char::from_u32(0x2800 + bits).unwrap_or(' ') }
        };
        let one = |row: usize, column: usize| match (self.ascii, on(column, row)) {
            (true, true) => '*',
            (true, false) => ' ',
            _ => braille(row, column),
        };
        (0..self.rows)
            .map(|row| (0..self.columns).map(|column| one(row, column)).collect())
            .collect()
    }
}
