//! Inner products of the sources, `G[i, j] = <W_i, W_j>`, or of their task vectors, in f64. Methods
//! based on norms and angles need nothing else from a tensor; one pass computes them.

use std::ops::Range;

use super::{Block, Operands};
use crate::vectorised::vectorised;

/// The partition of a tensor into vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// The number of vectors.
    pub count: usize,
    /// The number of consecutive elements of one vector: a whole row, or 1 for a column.
    run: usize,
}

impl Groups {
    /// The whole tensor is one vector.
    pub fn whole() -> Self {
        Self { count: 1, run: usize::MAX }
    }

    /// Each row, along the last dimension, is a vector.
    pub fn rows(shape: &[usize]) -> Self {
        let columns = shape.last().copied().unwrap_or(1).max(1);
        Self { count: (shape.iter().product::<usize>() / columns).max(1), run: columns }
    }

    /// Each column, along the first dimension, is a vector; a one-dimensional tensor is one column.
    pub fn columns(shape: &[usize]) -> Self {
        let count = shape.iter().skip(1).product::<usize>();
        if count <= 1 { Self::whole() } else { Self { count, run: 1 } }
    }

    /// Whether the elements of a vector are not consecutive.
    fn scattered(&self) -> bool {
        self.count > 1 && self.run == 1
    }

    /// Returns the runs of consecutive elements of one group among `length` elements from `start`
    /// on: the group and the range.
    pub fn runs(self, start: usize, length: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            (at < length).then(|| {
                let (group, left) = match self.count {
                    1 => (0, usize::MAX),
                    _ => ((start + at) / self.run % self.count, self.run - (start + at) % self.run),
                };
                let run = at..at + left.min(length - at);
                at = run.end;
                (group, run)
            })
        })
    }
}

/// Gram matrices, one per group.
pub(super) struct Grams {
    sources: usize,
    values: Vec<f64>,
}

impl Grams {
    /// Computes the inner products of `tensor`'s sources, or of `W_i - base` if there is a base.
    pub fn new(tensor: &Operands, groups: Groups) -> Self {
        let n = tensor.sources();
        let size = groups.count * n * n;
        let look = |sums: &mut Vec<f64>, block: &mut Block<'_>| accumulate(groups, 0, sums, block);
        let mut values = vec![0.0; size];
        let add = |values: &mut [f64], sums: Vec<f64>| {
            values.iter_mut().zip(sums).for_each(|(x, sum)| *x += sum)
        };
        if groups.count == 1 {
            tensor
                .chunks(|| vec![0.0; size], look)
                .into_iter()
                .for_each(|sums| add(&mut values, sums));
        } else if groups.scattered() {
            // A few long chunks, because each has a sum for every column.
            let length = tensor.elements().div_ceil(16);
            tensor
                .chunks_of(length, || vec![0.0; size], look)
                .into_iter()
                .for_each(|sums| add(&mut values, sums));
        } else {
            // Chunks of whole rows, so that each sum is computed in one chunk.
            let rows = (1usize << 16).div_ceil(groups.run);
            let first = |block: &Block<'_>| block.start() / (rows * groups.run) * rows;
            let found = tensor.chunks_of(
                rows * groups.run,
                || (0, Vec::new()),
                |(at, sums), block| {
                    if sums.is_empty() {
                        *at = first(block);
                        *sums = vec![0.0; rows.min(groups.count - *at) * n * n];
                    }
                    accumulate(groups, *at, sums, block);
                },
            );
            found.into_iter().for_each(|(at, sums)| add(&mut values[at * n * n..], sums));
        }
        Self { sources: n, values }
    }

    /// Returns the matrix of each group.
    pub fn iter(&self) -> impl Iterator<Item = Gram<'_>> {
        self.values
            .chunks(self.sources * self.sources)
            .map(|values| Gram { sources: self.sources, values })
    }
}

/// Adds the products of a block to `sums`, the matrices of the groups from `first` on.
fn accumulate(groups: Groups, first: usize, sums: &mut [f64], block: &mut Block<'_>) {
    block.subtract_base();
    let n = block.sources();
    vectorised(
        #[inline(always)]
        || {
            for (group, run) in groups.runs(block.start(), block.length()) {
                let sums = &mut sums[(group - first) * n * n..][..n * n];
                for i in 0..n {
                    for j in 0..=i {
                        sums[i * n + j] +=
                            dot(&block.source(i)[run.clone()], &block.source(j)[run.clone()]);
                    }
                }
            }
        },
    );
}

/// The inner products of vectors and of their linear combinations.
#[derive(Clone, Copy)]
pub(super) struct Gram<'a> {
    sources: usize,
    values: &'a [f64],
}

impl Gram<'_> {
    /// Returns the number of vectors.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// Returns `<W_i, W_j>`.
    pub fn product(&self, i: usize, j: usize) -> f64 {
        self.values[i.max(j) * self.sources + i.min(j)]
    }

    /// Returns `|W_i|`.
    pub fn norm(&self, i: usize) -> f64 {
        self.product(i, i).max(0.0).sqrt()
    }

    /// Returns `<sum_i a_i W_i, sum_j b_j W_j>`.
    pub fn between(&self, a: &[f64], b: &[f64]) -> f64 {
        let term = |i: usize, j: usize| a[i] * b[j] * self.product(i, j);
        (0..self.sources)
            .flat_map(|i| (0..self.sources).map(move |j| (i, j)))
            .map(|(i, j)| term(i, j))
            .sum()
    }

    /// Returns `|sum_i a_i W_i|`.
    pub fn length(&self, a: &[f64]) -> f64 {
        self.between(a, a).max(0.0).sqrt()
    }
}

/// Returns `<a, b>` in f64, summed in lanes that do not depend on the machine.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0f64; LANES];
    let a = a.as_chunks::<LANES>();
    let b = b.as_chunks::<LANES>();
    for (a, b) in a.0.iter().zip(b.0) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest = a.1.iter().zip(b.1).map(|(a, b)| f64::from(*a) * f64::from(*b));
    sums.into_iter().chain(rest).sum()
}

/// Returns `sum |x|` in f64, in the same lanes.
#[inline(always)]
pub(super) fn size(x: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0f64; LANES];
    let (x, rest) = x.as_chunks::<LANES>();
    for x in x {
        for lane in 0..LANES {
            sums[lane] += f64::from(x[lane].abs());
        }
    }
    sums.into_iter().chain(rest.iter().map(|x| f64::from(x.abs()))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::operands;

    #[test]
    fn inner_products_of_tensors_rows_and_columns() {
        let tensor = operands(
            &[2, 3],
            &[&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]],
            None,
        );
        let product = |groups| {
            Grams::new(&tensor, groups).iter().map(|g| g.product(0, 1)).collect::<Vec<_>>()
        };
        assert_eq!(product(Groups::whole()), [9.0]);
        assert_eq!(product(Groups::rows(&[2, 3])), [4.0, 5.0]);
        assert_eq!(product(Groups::columns(&[2, 3])), [1.0, 5.0, 3.0]);
        let grams = Grams::new(&tensor, Groups::whole());
        let gram = grams.iter().next().unwrap();
        assert_eq!(gram.norm(1), 3f64.sqrt());
        assert_eq!(gram.between(&[1.0, 2.0], &[0.0, 1.0]), 9.0 + 2.0 * 3.0);
    }

    #[test]
    fn inner_products_use_task_vectors_with_a_base() {
        let tensor = operands(&[2], &[&[1.0, 2.0], &[3.0, 1.0]], Some(&[1.0, 1.0]));
        let grams = Grams::new(&tensor, Groups::whole());
        let gram = grams.iter().next().unwrap();
        assert_eq!((gram.product(0, 0), gram.product(0, 1), gram.product(1, 1)), (1.0, 0.0, 4.0));
    }

    #[test]
    fn long_tensors_are_summed_in_chunks() {
        let (rows, columns) = (700, 300);
        let a: Vec<f32> = (0..rows * columns).map(|i| (i % 7) as f32).collect();
        let tensor = operands(&[rows, columns], &[&a, &a], None);
        let square = |x: usize| ((x % 7) * (x % 7)) as f64;
        let of_rows: Vec<f64> =
            (0..rows).map(|r| (0..columns).map(|c| square(r * columns + c)).sum()).collect();
        let of_columns: Vec<f64> =
            (0..columns).map(|c| (0..rows).map(|r| square(r * columns + c)).sum()).collect();
        let product = |groups| {
            Grams::new(&tensor, groups).iter().map(|g| g.product(1, 0)).collect::<Vec<_>>()
        };
        assert_eq!(product(Groups::rows(&[rows, columns])), of_rows);
        assert_eq!(product(Groups::columns(&[rows, columns])), of_columns);
        assert_eq!(product(Groups::whole()), [of_rows.iter().sum::<f64>()]);
    }
}
