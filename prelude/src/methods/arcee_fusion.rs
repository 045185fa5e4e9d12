//! Arcee Fusion: takes the most important elements of one source and keeps the base elsewhere. The
//! importance of an element is its change times the divergence of its row, `|W - base| KL(softmax(W
//! row) || softmax(base row))`. Elements at or above the median plus 1.5 times the interquartile
//! range are taken.
//!
//! Arcee AI (2024); mergekit's `arcee_fusion`, which estimates the quartiles of large tensors from
//! a sample of a million elements. Here they are exact.

use std::ops::RangeInclusive;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::rank::{Rank, cuts};
use super::{Base, Blend, Block, Method, MethodEntry, Operands, Origin};
use crate::error::Result;

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "arcee_fusion",
    about: "the base with the most important elements of one source",
    keys: &[],
    origin: Origin::Always,
    grid: &[],
    make: |_| Ok(Arc::new(ArceeFusion)),
};

/// Added to probabilities.
const EPSILON: f64 = 1e-8;

/// The base with the most important elements of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArceeFusion;

impl Method for ArceeFusion {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        json!({})
    }

    fn counts(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn base(&self) -> Base {
        Base::Origin
    }

    fn check(&self, _sources: usize) -> Result<()> {
        Ok(())
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let importance = Importance { columns: tensor.columns(), divergence: divergences(tensor) };
        let [q1, median, q3] = importance.quartiles(tensor);
        Ok(Box::new(Fused { threshold: median + 1.5 * (q3 - q1), importance }))
    }
}

/// The importance of elements.
struct Importance {
    columns: usize,
    /// One entry per row.
    divergence: Vec<f32>,
}

impl Importance {
    /// Overwrites the source of a block with the importance of its elements.
    #[inline(always)]
    fn write(&self, block: &mut Block<'_>) {
        block.subtract_base();
        let start = block.start();
        let values = block.source_mut(0).iter_mut().enumerate();
        values.for_each(|(i, x)| *x = x.abs() * self.divergence[(start + i) / self.columns]);
    }

    /// Returns the first, second and third quartile.
    fn quartiles(&self, tensor: &Operands) -> [f32; 3] {
        let n = tensor.elements();
        let places = [0.25, 0.5, 0.75].map(|share| (share * (n - 1) as f64) as usize);
        if places[0] == 0 {
            let mut all = Vec::with_capacity(n);
            tensor.for_blocks(0, n, |block| {
                self.write(block);
                all.extend_from_slice(block.source(0));
            });
            all.sort_by(f32::total_cmp);
            return places.map(|place| all[place]);
        }
        let ranks = places.map(|place| Rank { row: 0, rank: n - place });
        let cuts = cuts(tensor, &ranks, |block| self.write(block));
        [cuts[0].value(), cuts[1].value(), cuts[2].value()]
    }
}

/// Returns `KL(softmax(W) || softmax(base))` for each row.
fn divergences(tensor: &Operands) -> Vec<f32> {
    let columns = tensor.columns();
    let one = |row: usize| {
        let mut source = Vec::with_capacity(columns);
        let mut base = Vec::with_capacity(columns);
        tensor.for_blocks(row * columns, columns, |block| {
            source.extend_from_slice(block.source(0));
            base.extend_from_slice(block.base().unwrap_or(block.source(0)));
        });
        let (p, q) = (softmax(&source), softmax(&base));
        let terms = p.zip(q).map(|(p, q)| (p + EPSILON, q + EPSILON));
        terms.map(|(p, q)| p * (p / q).ln()).sum::<f64>().max(0.0) as f32
    };
    (0..tensor.elements() / columns).into_par_iter().map(one).collect()
}

fn softmax(row: &[f32]) -> impl Iterator<Item = f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = move |x: &f32| f64::from(x - largest).exp();
    let sum: f64 = row.iter().map(exp).sum();
    row.iter().map(move |x| exp(x) / sum)
}

struct Fused {
    importance: Importance,
    threshold: f32,
}

impl Blend for Fused {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        out.copy_from_slice(block.source(0));
        self.importance.write(block);
        let base = block.base().unwrap_or(block.source(0));
        for (out, (importance, base)) in out.iter_mut().zip(block.source(0).iter().zip(base)) {
            *out = if *importance >= self.threshold { base + (*out - base) } else { *base };
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn takes_the_most_important_elements() {
        // One row: all elements share its divergence, so only changes matter: 0, 0, 0, 0.1, 0.1,
        // 0.1, 0.2, 3.
        let base = [0.0, 0.5, 1.0, 0.2, 0.3, 0.1, 0.4, 0.0];
        let change = [0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 3.0];
        let source: Vec<f32> =
            base.iter().zip(change).map(|(base, change)| base + change).collect();
        let found = merged(&ArceeFusion, &operands(&[8], &[&source], Some(&base)));
        // Quartiles 0, 0.1 and 0.1, so the threshold is 0.25.
        assert_eq!(&found[..7], &base[..7]);
        assert_eq!(found[7], 3.0);
        // Nothing changed: the base is kept.
        assert_eq!(merged(&ArceeFusion, &operands(&[8], &[&base], Some(&base))), base);
        assert_eq!(merged(&ArceeFusion, &operands(&[1], &[&[2.0]], Some(&[1.0]))), [2.0]);
    }

    #[test]
    fn quartiles_equal_those_by_sorting() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let n = 70_000;
        let [source, base] =
            [(); 2].map(|()| (0..n).map(|_| rng.random::<f32>() - 0.5).collect::<Vec<f32>>());
        let tensor = operands(&[700, 100], &[&source], Some(&base));
        let importance = Importance { columns: 100, divergence: divergences(&tensor) };
        let mut all: Vec<f32> =
            (0..n).map(|i| (source[i] - base[i]).abs() * importance.divergence[i / 100]).collect();
        all.sort_by(f32::total_cmp);
        assert_eq!(
            importance.quartiles(&tensor),
            [all[(n - 1) / 4], all[(n - 1) / 2], all[3 * (n - 1) / 4]]
        );
    }
}
