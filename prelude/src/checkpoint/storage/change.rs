//! The changes an adapter makes to one weight as it is decoded: a low-rank term, a gain per row or
//! column, or replaced rows.

/// A change to a stored tensor, applied to a piece of a row at a time.
pub(crate) enum Change {
    /// `W + B A`
    Add(LowRank),
    /// Multiplies row `i` by gain `i`.
    GainOfRows(Vec<f32>),
    /// Multiplies column `j` by gain `j`.
    GainOfColumns(Vec<f32>),
    /// Replaces rows.
    Rows(Rows),
}

/// A low-rank term of a weight (rows x columns).
pub(crate) struct LowRank {
    pub rank: usize,
    pub columns: usize,
    /// `scale B`: rows x rank.
    pub b: Vec<f32>,
    /// `A`: rank x columns.
    pub a: Vec<f32>,
}

/// Replacement rows.
pub(crate) struct Rows {
    /// The row indices, in ascending order.
    pub numbers: Vec<u32>,
    pub columns: usize,
    /// numbers x columns.
    pub values: Vec<f32>,
}

impl Change {
    /// Applies the change to elements of row `row`, starting at column `column`.
    #[inline(always)]
    pub fn apply(&self, row: usize, column: usize, elements: &mut [f32]) {
        match self {
            Change::Add(term) => term.add(row, column, elements),
            Change::GainOfRows(gains) => elements.iter_mut().for_each(|x| *x *= gains[row]),
            Change::GainOfColumns(gains) => {
                elements.iter_mut().zip(&gains[column..]).for_each(|(x, gain)| *x *= gain)
            }
            Change::Rows(rows) => {
                if let Ok(at) = rows.numbers.binary_search(&(row as u32)) {
                    elements.copy_from_slice(
                        &rows.values[at * rows.columns + column..][..elements.len()],
                    );
                }
            }
        }
    }

    /// The numbers of the change, for a fingerprint.
    pub fn parts(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Change::Add(term) => Box::new(term.b.iter().chain(&term.a).map(|x| x.to_bits())),
            Change::GainOfRows(gains) | Change::GainOfColumns(gains) => {
                Box::new(gains.iter().map(|x| x.to_bits()))
            }
            Change::Rows(rows) => Box::new(
                rows.numbers.iter().copied().chain(rows.values.iter().map(|x| x.to_bits())),
            ),
        }
    }
}

impl LowRank {
    /// Adds the term to elements of row `row`, starting at column `column`.
    #[inline(always)]
    pub fn add(&self, row: usize, column: usize, into: &mut [f32]) {
        let b = &self.b[row * self.rank..][..self.rank];
        let n = into.len();
        let a = |r: usize| &self.a[r * self.columns + column..][..n];
        // Four rank components at a time, to read and write `into` a quarter as often.
        let (fours, rest) = b.as_chunks::<4>();
        for (i, b) in fours.iter().enumerate() {
            let a = [a(4 * i), a(4 * i + 1), a(4 * i + 2), a(4 * i + 3)];
            for (j, x) in into.iter_mut().enumerate() {
                *x += b[0] * a[0][j] + b[1] * a[1][j] + b[2] * a[2][j] + b[3] * a[3][j];
            }
        }
        for (i, b) in rest.iter().enumerate() {
            into.iter_mut().zip(a(4 * fours.len() + i)).for_each(|(x, a)| *x += b * a);
        }
    }
}
