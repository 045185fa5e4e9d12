//! Sparsifies task vectors: selects the kept elements of `d = W_i - base`, and rescales them to
//! compensate for the dropped ones.
//!
//! | variant | kept elements, of n | source |
//! | --- | --- | --- |
//! | magnitude | the `density n` largest in magnitude, at least one | TIES, arXiv 2306.01708 |
//! | outliers | the `density n` largest after the `gamma n` largest | Model Breadcrumbs, arXiv 2312.06795 |
//! | random | each with probability `density` | DARE, arXiv 2311.03099 |
//! | ranked | each with probability `density - epsilon` to `density + epsilon`, by rank in its row | DELLA, arXiv 2406.11617 |
//!
//! Random draws are a function of seed, tensor, source and position; they do not depend on threads
//! or order.

use rayon::prelude::*;

use super::draws::{Draws, below};
use super::gram::size;
use super::parameters::of;
use super::rank::{Cut, Rank, cuts};
use super::{Block, Operands, TILE};
use crate::vectorised::vectorised;

/// The rule that selects the kept elements of a task vector.
#[derive(Clone, Debug, PartialEq)]
pub enum Sparsify {
    /// All, whatever the density.
    Nothing,
    /// The largest in magnitude.
    Magnitude,
    /// The largest after the fraction `gamma` of outliers: one value, or one per source.
    Outliers {
        /// The fraction, 0 to 1.
        gamma: Vec<f64>,
    },
    /// At random, with equal probability.
    Random {
        /// The seed of the draws.
        seed: u64,
    },
    /// At random, with a higher probability for larger elements.
    Ranked {
        /// The range of the probability around the density: one number, or one per source.
        epsilon: Vec<f64>,
        /// The seed of the draws.
        seed: u64,
    },
}

/// The rescaling of kept elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescale {
    /// None.
    Off,
    /// Preserves the L1 norm, as mergekit does.
    L1,
    /// Divides by the density, as in the DARE paper.
    Density,
}

/// The kept elements of one source's task vector.
pub(super) struct Selection {
    which: KeptElements,
    scale: f32,
}

enum KeptElements {
    All,
    /// Between two ranks by magnitude.
    Window(Cut, Cut),
    /// Draws below a threshold.
    Drawn(Draws, u32),
    /// One bit per element.
    Bits(Vec<u64>),
}

impl Selection {
    /// Keeps all elements.
    pub fn all() -> Self {
        Self { which: KeptElements::All, scale: 1.0 }
    }

    /// In `values`, a block from position `start` on, sets dropped elements to 0 and rescales the
    /// others.
    #[inline(always)]
    pub fn apply(&self, start: usize, values: &mut [f32]) {
        let mut kept = [true; TILE];
        let kept = &mut kept[..values.len()];
        match &self.which {
            KeptElements::All => return,
            KeptElements::Window(above, below) => {
                let mut keys = [0f32; TILE];
                let keys = &mut keys[..values.len()];
                keys.iter_mut().zip(values.iter()).for_each(|(key, x)| *key = x.abs());
                below.ahead(start, keys, kept);
                if *above != Cut::FIRST {
                    let mut dropped = [false; TILE];
                    above.ahead(start, keys, &mut dropped[..keys.len()]);
                    kept.iter_mut().zip(dropped).for_each(|(kept, dropped)| *kept &= !dropped);
                }
            }
            KeptElements::Drawn(draws, below) => draws.fill(start, *below, kept),
            KeptElements::Bits(bits) => {
                let bit = |at: usize| bits[at / 64] >> (at % 64) & 1 == 1;
                kept.iter_mut().enumerate().for_each(|(i, kept)| *kept = bit(start + i));
            }
        }
        values
            .iter_mut()
            .zip(kept)
            .for_each(|(x, kept)| *x = if *kept { *x * self.scale } else { 0.0 });
    }
}

impl Sparsify {
    /// Returns the kept elements of each source of `tensor` for the given densities.
    pub(super) fn kept(
        &self,
        tensor: &Operands,
        densities: &[f64],
        rescale: Rescale,
    ) -> Vec<Selection> {
        let all = |i: &usize| of(densities, *i) >= 1.0 || *self == Self::Nothing;
        let mut kept: Vec<Selection> = (0..tensor.sources()).map(|_| Selection::all()).collect();
        let thinned: Vec<usize> = (0..tensor.sources()).filter(|i| !all(i)).collect();
        let draws = |seed, i: usize| Draws::new(seed, &tensor.spec().name, &tensor.names()[i]);
        match self {
            Self::Nothing => {}
            Self::Magnitude | Self::Outliers { .. } => {
                let ranks = thinned.iter().flat_map(|i| {
                    let (skipped, least) = if let Self::Outliers { gamma } = self {
                        (of(gamma, *i), 0)
                    } else {
                        (0.0, 1)
                    };
                    window(tensor.elements(), of(densities, *i), skipped, least)
                        .map(|rank| Rank { row: *i, rank })
                });
                let cuts = cuts(tensor, &ranks.collect::<Vec<_>>(), |block| {
                    block.subtract_base();
                    thinned
                        .iter()
                        .for_each(|i| block.source_mut(*i).iter_mut().for_each(|x| *x = x.abs()));
                });
                for (i, cut) in thinned.iter().zip(cuts.chunks(2)) {
                    kept[*i].which = KeptElements::Window(cut[0], cut[1]);
                }
            }
            Self::Random { seed } => {
                for i in &thinned {
                    kept[*i].which =
                        KeptElements::Drawn(draws(*seed, *i), below(of(densities, *i)));
                }
            }
            Self::Ranked { epsilon, seed } => {
                for i in &thinned {
                    if of(densities, *i) <= 0.0 {
                        kept[*i].which = KeptElements::Drawn(draws(*seed, *i), below(0.0));
                        continue;
                    }
                    kept[*i].which = KeptElements::Bits(ranked(
                        tensor,
                        *i,
                        of(densities, *i),
                        of(epsilon, *i),
                        draws(*seed, *i),
                    ));
                }
            }
        }
        match rescale {
            Rescale::Off => {}
            Rescale::Density => thinned
                .iter()
                .for_each(|i| kept[*i].scale = (1.0 / of(densities, *i).max(1e-30)) as f32),
            Rescale::L1 if thinned.is_empty() => {}
            Rescale::L1 => {
                let scales = l1_scales(tensor, &kept);
                thinned.iter().for_each(|i| kept[*i].scale = scales[*i]);
            }
        }
        kept
    }
}

/// Returns the ranks of the `density n` largest of `n` elements after the `skipped n` largest; at
/// least `least` elements if there are any.
fn window(n: usize, density: f64, skipped: f64, least: usize) -> [usize; 2] {
    let least = if density > 0.0 { least } else { 0 };
    let count = ((density * n as f64) as usize).max(least).min(n);
    // Skips fewer of the largest if too few would remain.
    let first = ((skipped * n as f64) as usize).min(n - count);
    [first, first + count]
}

/// Returns, for each source, the L1 norm divided by that of the kept elements; 1 if either is 0.
fn l1_scales(tensor: &Operands, kept: &[Selection]) -> Vec<f32> {
    let n = kept.len();
    let sums = tensor.chunks(
        || vec![(0.0, 0.0); n],
        |sums: &mut Vec<(f64, f64)>, block| {
            block.subtract_base();
            let start = block.start();
            vectorised(
                #[inline(always)]
                || {
                    for (i, kept) in kept.iter().enumerate() {
                        sums[i].0 += size(block.source(i));
                        kept.apply(start, block.source_mut(i));
                        sums[i].1 += size(block.source(i));
                    }
                },
            );
        },
    );
    let mut total = vec![(0.0, 0.0); n];
    for sums in sums {
        total
            .iter_mut()
            .zip(sums)
            .for_each(|(total, sum)| *total = (total.0 + sum.0, total.1 + sum.1));
    }
    const LEAST: f64 = 1e-7;
    total
        .into_iter()
        .map(|(all, left)| if all < LEAST || left < LEAST { 1.0 } else { (all / left) as f32 })
        .collect()
}

/// Returns DELLA's draws for source `i`, one bit per element. Rows are ranked one by one.
fn ranked(tensor: &Operands, i: usize, density: f64, epsilon: f64, draws: Draws) -> Vec<u64> {
    let columns = tensor.columns();
    let elements = tensor.elements();
    let last = (columns - 1).max(1) as f64;
    let middle = if columns == 1 { epsilon } else { 0.0 };
    // 64 rows at a time fill whole words.
    let stretch = 64 * columns;
    let words = (0..elements.div_ceil(stretch)).into_par_iter().map(|part| {
        let length = stretch.min(elements - part * stretch);
        let mut values = Vec::with_capacity(length);
        let mut bits = vec![0u64; length.div_ceil(64)];
        tensor.for_blocks(part * stretch, length, |block| {
            block.subtract_base();
            values.extend(block.source(i).iter().map(|x| x.abs().to_bits()));
        });
        let mut order: Vec<u32> = Vec::with_capacity(columns);
        for (row, values) in values.chunks(columns).enumerate() {
            order.clear();
            order.extend(0..columns as u32);
            order.sort_unstable_by_key(|at| (values[*at as usize], *at));
            for (rank, at) in order.iter().enumerate() {
                let probability = density - epsilon + middle + rank as f64 / last * 2.0 * epsilon;
                let at = row * columns + *at as usize;
                let drawn = draws.at(part * stretch + at) < below(probability);
                bits[at / 64] |= u64::from(drawn) << (at % 64);
            }
        }
        bits
    });
    words.collect::<Vec<_>>().concat()
}

/// Replaces a block's sources by their sparsified task vectors.
#[inline(always)]
pub(super) fn thin(kept: &[Selection], block: &mut Block<'_>) {
    block.subtract_base();
    let start = block.start();
    kept.iter().enumerate().for_each(|(i, kept)| kept.apply(start, block.source_mut(i)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::operands;

    fn kept(
        sparsify: &Sparsify,
        density: f64,
        rescale: Rescale,
        values: &[f32],
        shape: &[usize],
    ) -> Vec<f32> {
        let tensor = operands(shape, &[values], Some(&vec![0.0; values.len()]));
        let kept = sparsify.kept(&tensor, &[density], rescale);
        let mut out = Vec::new();
        tensor.for_blocks(0, values.len(), |block| {
            thin(&kept, block);
            out.extend_from_slice(block.source(0));
        });
        out
    }

    #[test]
    fn keeps_the_largest_with_ties_by_position() {
        let values = [1.0, -3.0, 2.0, -2.0, 0.5, 2.0];
        assert_eq!(
            kept(&Sparsify::Magnitude, 0.5, Rescale::Off, &values, &[6]),
            [0.0, -3.0, 2.0, -2.0, 0.0, 0.0]
        );
        // 10.5 / 7: the L1 norm over that of the kept elements.
        let scaled = kept(&Sparsify::Magnitude, 0.5, Rescale::L1, &values, &[6]);
        assert_eq!(scaled, [0.0, -4.5, 3.0, -3.0, 0.0, 0.0]);
        assert_eq!(kept(&Sparsify::Magnitude, 1.0, Rescale::L1, &values, &[6]), values);
        // As in mergekit, at least one element is kept of a non-empty tensor.
        assert_eq!(
            kept(&Sparsify::Magnitude, 0.1, Rescale::Off, &values, &[6]),
            [0.0, -3.0, 0.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(kept(&Sparsify::Magnitude, 0.0, Rescale::L1, &values, &[6]), [0.0; 6]);
    }

    #[test]
    fn breadcrumbs_drop_outliers() {
        let values = [1.0, -3.0, 2.0, -4.0, 0.5, 2.5];
        let outliers = |gamma| Sparsify::Outliers { gamma: vec![gamma] };
        assert_eq!(
            kept(&outliers(0.2), 0.5, Rescale::Off, &values, &[6]),
            [0.0, -3.0, 2.0, 0.0, 0.0, 2.5]
        );
        // Less than one element counts as none.
        assert_eq!(
            kept(&outliers(0.1), 0.5, Rescale::Off, &values, &[6]),
            [0.0, -3.0, 0.0, -4.0, 0.0, 2.5]
        );
        // The outliers are limited so that the density is kept.
        assert_eq!(
            kept(&outliers(0.9), 0.5, Rescale::Off, &values, &[6]),
            [1.0, 0.0, 2.0, 0.0, 0.5, 0.0]
        );
    }

    #[test]
    fn random_draws_preserve_density_and_l1_norm() {
        let values: Vec<f32> = (0..40_000).map(|i| (i % 13) as f32 - 6.0).collect();
        let size = |values: &[f32]| values.iter().map(|x| x.abs()).sum::<f32>();
        let share = |values: &[f32]| {
            values.iter().filter(|x| **x != 0.0).count() as f32 / 40_000.0 * 13.0 / 12.0
        };
        for sparsify in
            [Sparsify::Random { seed: 0 }, Sparsify::Ranked { epsilon: vec![0.2], seed: 0 }]
        {
            let l1 = kept(&sparsify, 0.3, Rescale::L1, &values, &[200, 200]);
            assert!((size(&l1) / size(&values) - 1.0).abs() < 1e-3, "{sparsify:?}");
            let off = kept(&sparsify, 0.3, Rescale::Off, &values, &[200, 200]);
            assert!((share(&off) - 0.3).abs() < 0.03, "{sparsify:?}: {}", share(&off));
            assert!(off.iter().zip(&values).all(|(x, value)| *x == 0.0 || x == value));
        }
        let random =
            |seed| kept(&Sparsify::Random { seed }, 0.25, Rescale::Density, &values, &[40_000]);
        assert!(random(0).iter().zip(&values).all(|(x, value)| *x == 0.0 || *x == 4.0 * value));
        assert_ne!(random(0), random(1));
        assert_eq!(random(1), random(1));
    }

    #[test]
    fn density_zero_keeps_nothing() {
        for sparsify in
            [Sparsify::Random { seed: 0 }, Sparsify::Ranked { epsilon: vec![0.2], seed: 0 }]
        {
            assert_eq!(kept(&sparsify, 0.0, Rescale::L1, &[1.0; 100], &[10, 10]), [0.0; 100]);
        }
    }

    #[test]
    fn larger_elements_are_kept_with_higher_probability() {
        // Rows of one small and one large element: probabilities 0.1 and 0.9.
        let values: Vec<f32> = (0..20_000).map(|i| if i % 2 == 0 { 0.5 } else { -3.0 }).collect();
        let sparsify = Sparsify::Ranked { epsilon: vec![0.4], seed: 5 };
        let found = kept(&sparsify, 0.5, Rescale::Off, &values, &[10_000, 2]);
        let share = |value: f32| found.iter().filter(|x| **x == value).count() as f32 / 10_000.0;
        assert!(
            (share(0.5) - 0.1).abs() < 0.02 && (share(-3.0) - 0.9).abs() < 0.02,
            "{} {}",
            share(0.5),
            share(-3.0)
        );
    }

    /// The draws for a source in a tensor do not depend on the order of blocks or on the other
    /// sources.
    #[test]
    fn draws_depend_on_tensor_and_source_only() {
        let (a, b): (Vec<f32>, Vec<f32>) =
            (0..5_000u16).map(|i| (f32::from(i) + 1.0, -f32::from(i) - 1.0)).unzip();
        let base = vec![0.0; a.len()];
        let both = operands(&[50, 100], &[&a, &b], Some(&base));
        let alone = operands(&[50, 100], &[&a], Some(&base));
        for sparsify in
            [Sparsify::Random { seed: 3 }, Sparsify::Ranked { epsilon: vec![0.1], seed: 3 }]
        {
            let kept = |tensor: &Operands, backwards: bool| {
                let kept = sparsify.kept(tensor, &[0.5], Rescale::Off);
                let mut out = vec![0.0; a.len()];
                let starts: Vec<usize> = (0..a.len()).step_by(TILE).collect();
                for at in 0..starts.len() {
                    let start = starts[if backwards { starts.len() - 1 - at } else { at }];
                    tensor.for_blocks(start, TILE.min(a.len() - start), |block| {
                        thin(&kept, block);
                        out[block.start()..][..block.length()].copy_from_slice(block.source(0));
                    });
                }
                out
            };
            assert_eq!(kept(&both, false), kept(&alone, true));
        }
    }
}
