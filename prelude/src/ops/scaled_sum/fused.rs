//! The scaled sum and its gradient over memory-mapped sources, a tile of a row at a time, on all
//! cores.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::Form;
use crate::checkpoint::{TILE, View};
use crate::ops::{LANES, Real, for_rows, for_rows_of};
use crate::vectorised::vectorised;

/// Rows summed per task; partial sums are added in order, so the result does not depend on the
/// number of threads.
const BLOCK: usize = 64;

/// One weight of every source, and the form of its scales.
#[derive(Clone, Copy)]
pub(super) struct Fused<'a> {
    pub(super) views: &'a [View],
    /// The dimensions of the weight.
    pub(super) columns: usize,
    pub(super) form: Form,
}

/// A stored element and its conversion for computation.
#[inline(always)]
fn real<T: Real>(w: &f32) -> T {
    T::from_f64(f64::from(*w))
}

/// Adds scaled elements to `out`, or overwrites it for the first source. There is one scale, or one
/// per element.
#[inline(always)]
fn add_scaled<T: Real>(out: &mut [T], scales: &[T], w: &[f32], first: bool) {
    match scales {
        [s] if first => out.iter_mut().zip(w).for_each(|(out, w)| *out = *s * real(w)),
        [s] => out.iter_mut().zip(w).for_each(|(out, w)| *out += *s * real(w)),
        _ => {
            let terms = out.iter_mut().zip(scales.iter().zip(w).map(|(s, w)| *s * real(w)));
            if first {
                terms.for_each(|(out, x)| *out = x)
            } else {
                terms.for_each(|(out, x)| *out += x)
            }
        }
    }
}

/// Computes `sum_j g[j] w[j]`.
#[inline(always)]
fn dot<T: Real>(g: &[T], w: &[f32]) -> T {
    let ((g, g_rest), (w, w_rest)) = (g.as_chunks::<LANES>(), w.as_chunks::<LANES>());
    let mut lanes = [T::zero(); LANES];
    for (g, w) in g.iter().zip(w) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += g[lane] * real(&w[lane]);
        }
    }
    for ((sum, g), w) in lanes.iter_mut().zip(g_rest).zip(w_rest) {
        *sum += *g * real(w);
    }
    lanes.into_iter().sum()
}

/// Adds `g w` of the columns from `start` on to the sums of a row's scales: one for all, or one
/// each.
#[inline(always)]
fn add_products<T: Real>(sums: &mut [T], start: usize, g: &[T], w: &[f32]) {
    if let [sum] = sums {
        *sum += dot(g, w);
        return;
    }
    for ((sum, g), w) in sums[start..start + w.len()].iter_mut().zip(g).zip(w) {
        *sum += *g * real(w);
    }
}

impl Fused<'_> {
    /// Returns the scales of columns `start..end` in row `row` of source `i`: one for all, or one
    /// each.
    #[inline(always)]
    fn scales<'s, T>(
        &self,
        scales: &'s [T],
        i: usize,
        row: usize,
        start: usize,
        end: usize,
    ) -> &'s [T] {
        let Form { rows, columns } = self.form;
        let row = if rows == 1 { i } else { i * rows + row };
        if columns == 1 {
            &scales[row..=row]
        } else {
            &scales[row * columns + start..row * columns + end]
        }
    }

    /// Sums row `source_row(i)` of every source into row i of `merged`.
    pub(super) fn forward<T: Real>(
        &self,
        scales: &[T],
        merged: &mut [T],
        source_row: impl Fn(usize) -> usize + Sync,
    ) {
        let n = self.columns;
        for_rows(
            merged,
            n,
            #[inline(always)]
            |row, out| {
                let mut buffer = [0f32; TILE];
                let row = source_row(row);
                for (i, view) in self.views.iter().enumerate() {
                    for start in (0..n).step_by(TILE) {
                        let end = n.min(start + TILE);
                        let w = view.decode(row * n + start, &mut buffer[..end - start]);
                        add_scaled(
                            &mut out[start..end],
                            self.scales(scales, i, row, start, end),
                            w,
                            i == 0,
                        );
                    }
                }
            },
        );
    }

    /// Computes elements of the sum from `start` on; neither end needs to be at a row boundary.
    #[inline(always)]
    pub(super) fn piece(&self, scales: &[f32], start: usize, out: &mut [f32]) {
        let (n, mut buffer, mut done) = (self.columns, [0f32; TILE], 0);
        while done < out.len() {
            let (row, column) = ((start + done) / n, (start + done) % n);
            let length = TILE.min(n - column).min(out.len() - done);
            for (i, view) in self.views.iter().enumerate() {
                let w = &mut buffer[..length];
                view.read(start + done, w);
                add_scaled(
                    &mut out[done..done + length],
                    self.scales(scales, i, row, column, column + length),
                    w,
                    i == 0,
                );
            }
            done += length;
        }
    }

    /// Maps the gradient of the sum, or of its rows `ids`, to that of the scales.
    pub(super) fn backward<T: Real>(&self, gradient: &[T], ids: Option<&[u32]>) -> Vec<T> {
        if self.form.rows == 1 {
            return self.backward_summed(gradient, |row| ids.map_or(row, |ids| ids[row] as usize));
        }
        let places = ids.map(|ids| {
            let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            ids.iter()
                .enumerate()
                .for_each(|(place, id)| places.entry(*id as usize).or_default().push(place));
            places
        });
        self.backward_by_row(gradient, places.as_ref())
    }

    /// If all rows share their scales, their products are summed.
    fn backward_summed<T: Real>(
        &self,
        gradient: &[T],
        source_row: impl Fn(usize) -> usize + Sync,
    ) -> Vec<T> {
        let (n, scales, sources) = (self.columns, self.form.columns, self.views.len());
        let partial: Vec<Vec<T>> = gradient
            .par_chunks(n * BLOCK)
            .enumerate()
            .map(|(block, gradient)| {
                let mut sums = vec![T::zero(); sources * scales];
                vectorised(
                    #[inline(always)]
                    || {
                        let mut buffer = [0f32; TILE];
                        for (i, gradient) in gradient.chunks(n).enumerate() {
                            let row = source_row(block * BLOCK + i);
                            for (view, sums) in self.views.iter().zip(sums.chunks_mut(scales)) {
                                for start in (0..n).step_by(TILE) {
                                    let end = n.min(start + TILE);
                                    let w =
                                        view.decode(row * n + start, &mut buffer[..end - start]);
                                    add_products(sums, start, &gradient[start..end], w);
                                }
                            }
                        }
                    },
                );
                sums
            })
            .collect();
        let mut total = vec![T::zero(); sources * scales];
        for sums in &partial {
            total.iter_mut().zip(sums).for_each(|(t, s)| *t += *s);
        }
        total
    }

    /// If every row has its own scales. `places` maps rows to rows of the gradient; `None` is the
    /// identity.
    fn backward_by_row<T: Real>(
        &self,
        gradient: &[T],
        places: Option<&BTreeMap<usize, Vec<usize>>>,
    ) -> Vec<T> {
        let (n, Form { rows, columns }) = (self.columns, self.form);
        let mut sums = vec![T::zero(); self.views.len() * rows * columns];
        for_rows_of(
            &mut sums,
            columns,
            n,
            #[inline(always)]
            |place, sums| {
                let (view, row, mut buffer) =
                    (&self.views[place / rows], place % rows, [0f32; TILE]);
                let own = [row];
                let places =
                    places.map_or(&own[..], |places| places.get(&row).map_or(&[], Vec::as_slice));
                if places.is_empty() {
                    return;
                }
                for start in (0..n).step_by(TILE) {
                    let end = n.min(start + TILE);
                    let w = view.decode(row * n + start, &mut buffer[..end - start]);
                    for place in places {
                        add_products(sums, start, &gradient[place * n + start..place * n + end], w);
                    }
                }
            },
        );
        sums
    }
}
