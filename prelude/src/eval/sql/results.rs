//! Results of queries, and whether two are the same.

use std::collections::BTreeMap;

/// Rows of cells.
pub(super) type Rows = Vec<Vec<Cell>>;

/// A value. Numbers are equal if their values are, whatever their type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    /// The bits of a number that is no integer.
    Real(u64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Cell {
    pub fn real(real: f64) -> Self {
        // Below 2^53, where every integer is a double.
        let is_integer = real.fract() == 0.0 && real.abs() < 9_007_199_254_740_992.0;
        if is_integer { Self::Integer(real as i64) } else { Self::Real(real.to_bits()) }
    }

    pub fn bytes(&self) -> usize {
        let own = match self {
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len(),
            _ => 0,
        };
        size_of::<Self>() + own
    }
}

/// The maximum number of orders of columns that are tried.
const ORDERS: usize = 5040;

/// Whether two results are the same but for the order of columns and, unless `ordered`, of rows.
/// Two without rows are.
pub(super) fn same(expected: &Rows, found: &Rows, ordered: bool) -> bool {
    let (Some(first), Some(other)) = (expected.first(), found.first()) else {
        return expected.len() == found.len();
    };
    if expected.len() != found.len() || first.len() != other.len() {
        return false;
    }
    let column = |rows: &'_ Rows, at: usize| {
        let mut cells: Vec<Cell> = rows.iter().map(|row| row[at].clone()).collect();
        if !ordered {
            cells.sort_unstable();
        }
        cells
    };
    let columns: Vec<Vec<Cell>> = (0..other.len()).map(|at| column(found, at)).collect();
    let alike = |at: usize| {
        let own = column(expected, at);
        let equal = |other: &usize| columns[*other] == own;
        (0..columns.len()).filter(equal).collect::<Vec<usize>>()
    };
    let candidates: Vec<Vec<usize>> = (0..first.len()).map(alike).collect();
    let mut search = Search { expected, found, ordered, candidates, left: ORDERS };
    search.any(&mut Vec::new())
}

/// A search for an order of the columns in which the rows are equal.
struct Search<'a> {
    expected: &'a Rows,
    found: &'a Rows,
    ordered: bool,
    /// For each expected column, the found ones with the same values.
    candidates: Vec<Vec<usize>>,
    left: usize,
}

impl Search<'_> {
    fn any(&mut self, chosen: &mut Vec<usize>) -> bool {
        let Some(candidates) = self.candidates.get(chosen.len()).cloned() else {
            self.left = self.left.saturating_sub(1);
            return self.is_equal(chosen);
        };
        for candidate in candidates {
            if self.left == 0 {
                return false;
            }
            if chosen.contains(&candidate) {
                continue;
            }
            chosen.push(candidate);
            if self.any(chosen) {
                return true;
            }
            chosen.pop();
        }
        false
    }

    fn is_equal(&self, order: &[usize]) -> bool {
        // Columns that are equal in order make rows that are.
        if self.ordered {
            return true;
        }
        let row = |row: &'_ Vec<Cell>| order.iter().map(|at| row[*at].clone()).collect();
        let mut found = self.found.iter().map(row);
        let mut counts: BTreeMap<&[Cell], i64> = BTreeMap::new();
        for row in self.expected {
            *counts.entry(row).or_default() += 1;
        }
        found.all(|row: Vec<Cell>| {
            let count = counts.get_mut(row.as_slice());
            count.is_some_and(|count| {
                *count -= 1;
                *count >= 0
            })
        })
    }
}
