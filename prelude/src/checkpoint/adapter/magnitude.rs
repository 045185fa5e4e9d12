//! DoRA (arXiv 2402.09353): `m (W + s B A) / ||W + s B A||`, by rows; by columns for embeddings and
//! layers that are stored transposed.

use rayon::prelude::*;

use crate::checkpoint::storage::LowRank;
use crate::checkpoint::storage::{TILE, View};
use crate::vectorised::vectorised;

/// Rows summed at a time, independent of the number of threads.
const ROWS: usize = 512;

/// The axis of the norms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NormAxis {
    Rows,
    Columns,
}

/// `magnitudes` divided by the norms of the rows or columns of `view` plus `term`.
pub(super) fn gains(view: &View, term: &LowRank, magnitudes: &[f32], along: NormAxis) -> Vec<f32> {
    let (rows, columns) = (view.shape[0], view.columns());
    let starts: Vec<usize> = (0..rows).step_by(ROWS).collect();
    let squares = starts.par_iter().map(|start| {
        let numbers = *start..rows.min(start + ROWS);
        let mut sums = vec![0f64; if along == NormAxis::Rows { numbers.len() } else { columns }];
        let mut buffer = [0f32; TILE];
        vectorised(
            #[inline(always)]
            || {
                for row in numbers.clone() {
                    for column in (0..columns).step_by(TILE) {
                        let tile = &mut buffer[..TILE.min(columns - column)];
                        view.decode(row * columns + column, tile);
                        term.add(row, column, tile);
                        let squares = tile.iter().map(|x| f64::from(*x) * f64::from(*x));
                        match along {
                            NormAxis::Rows => sums[row - start] += squares.sum::<f64>(),
                            NormAxis::Columns => sums[column..]
                                .iter_mut()
                                .zip(squares)
                                .for_each(|(sum, square)| *sum += square),
                        }
                    }
                }
            },
        );
        sums
    });
    let parts: Vec<Vec<f64>> = squares.collect();
    view.release();
    let sums = match along {
        NormAxis::Rows => parts.concat(),
        NormAxis::Columns => parts.into_iter().fold(vec![0f64; columns], |mut sums, part| {
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            sums
        }),
    };
    magnitudes
        .iter()
        .zip(sums)
        .map(|(magnitude, sum)| (f64::from(*magnitude) / sum.sqrt()) as f32)
        .collect()
}
