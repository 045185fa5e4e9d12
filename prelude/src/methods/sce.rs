//! SCE (select, calculate, erase): keeps task vectors where they vary most between sources; weights
//! each source by the mean square of its kept elements; erases elements that conflict with the
//! elected sign; averages the rest.
//!
//! Wan et al. (FuseChat), arXiv 2408.07990; mergekit's `sce`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Value, json};

use super::gram::dot;
use super::parameters::{self, INT8_MASK, Key};
use super::rank::{Cut, Rank, cuts};
use super::task_vectors::{Consensus, Divisor, WeightOrder};
use super::{
    Base, Blend, Block, Method, MethodEntry, Operands, Origin, ParameterValues, Signs, TILE,
};
use crate::error::Result;
use crate::vectorised::vectorised;

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "sce",
    about: "task vectors where they differ most, weighted by magnitude, with sign consensus",
    keys: &[Key::whole("select_topk", "1"), INT8_MASK],
    origin: Origin::Always,
    grid: &[("select_topk", &["0.1", "0.3", "0.6", "1"])],
    make,
};

/// Select, calculate, erase.
#[derive(Clone, Debug, PartialEq)]
pub struct Sce {
    /// The fraction kept of the elements with non-zero variance, 0 to 1.
    pub select_topk: f64,
}

impl Default for Sce {
    fn default() -> Self {
        Self { select_topk: 1.0 }
    }
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    given.switch(INT8_MASK.name)?;
    Ok(Arc::new(Sce { select_topk: given.number("select_topk")? }))
}

impl Method for Sce {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        json!({"select_topk": self.select_topk})
    }

    fn counts(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    fn base(&self) -> Base {
        Base::Origin
    }

    fn check(&self, _sources: usize) -> Result<()> {
        parameters::check(
            "select_topk",
            &[self.select_topk],
            1,
            |x| (0.0..=1.0).contains(&x),
            "a number from 0 to 1",
        )
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let selected = if self.select_topk < 1.0 { self.select(tensor) } else { Cut::LAST };
        let squares = tensor.chunks(
            || vec![0.0; tensor.sources()],
            |sums: &mut Vec<f64>, block| {
                select(selected, block);
                sums.iter_mut()
                    .enumerate()
                    .for_each(|(i, sum)| *sum += dot(block.source(i), block.source(i)));
            },
        );
        let mut weights = vec![0.0; tensor.sources()];
        for sums in squares {
            weights
                .iter_mut()
                .zip(sums)
                .for_each(|(total, sum)| *total += sum / tensor.elements() as f64);
        }
        let total: f64 = weights.iter().sum();
        let equal = 1.0 / tensor.sources() as f64;
        // Below this, the weights are meaningless.
        let weights = weights
            .iter()
            .map(|w| if total.abs() < 1e-6 { equal } else { w / total } as f32)
            .collect();
        let divisor = Divisor::WeightsAtLeast(1e-6);
        let weight_order = WeightOrder::AfterElection;
        let consensus =
            Consensus { weights, signs: Signs::Elected, weight_order, divisor, lambda: 1.0 };
        Ok(Box::new(Selected { selected, consensus }))
    }
}

impl Sce {
    /// Returns the cut after the elements that vary most between the sources.
    fn select(&self, tensor: &Operands) -> Cut {
        let vary = tensor.tally(
            || 0,
            |count, block| {
                block.subtract_base();
                let variances = &variances(block)[..block.length()];
                *count += variances.iter().filter(|x| **x != 0.0).count();
            },
            |a, b| *a += b,
        );
        let rank = (vary as f64 * self.select_topk) as usize;
        let keys = |block: &mut Block<'_>| {
            block.subtract_base();
            let keys = variances(block);
            let length = block.length();
            block.source_mut(0).copy_from_slice(&keys[..length]);
        };
        cuts(tensor, &[Rank { row: 0, rank }], keys)[0]
    }
}

struct Selected {
    selected: Cut,
    consensus: Consensus,
}

impl Blend for Selected {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || {
                select(self.selected, block);
                self.consensus.add(block, out);
            },
        );
    }
}

/// Replaces a block's sources by their task vectors where the variance is large enough, and by 0
/// elsewhere.
#[inline(always)]
fn select(selected: Cut, block: &mut Block<'_>) {
    block.subtract_base();
    if selected == Cut::LAST {
        return;
    }
    let (start, length) = (block.start(), block.length());
    let keys = variances(block);
    let mut kept = [false; TILE];
    selected.ahead(start, &keys[..length], &mut kept[..length]);
    for i in 0..block.sources() {
        block
            .source_mut(i)
            .iter_mut()
            .zip(kept)
            .for_each(|(x, kept)| *x = if kept { *x } else { 0.0 });
    }
}

/// Returns the variance of each element over the sources of a block: `mean_i (x_i - mean)^2`.
#[inline(always)]
fn variances(block: &Block<'_>) -> [f32; TILE] {
    let n = block.sources() as f64;
    let [mut mean, mut squares] = [[0f64; TILE]; 2];
    for i in 0..block.sources() {
        mean.iter_mut().zip(block.source(i)).for_each(|(mean, x)| *mean += f64::from(*x) / n);
    }
    for i in 0..block.sources() {
        let elements = squares.iter_mut().zip(mean).zip(block.source(i));
        elements.for_each(|((sum, mean), x)| *sum += (f64::from(*x) - mean).powi(2) / n);
    }
    squares.map(|x| x as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn weights_come_from_the_selected_elements() {
        // Task vectors (2, 4, 1, 3) and (4, 0, 1, -1): variances 1, 4, 0, 4. A fraction of 2/3 of
        // three elements is two: the second and the fourth. Mean squares (16 + 9) / 4 and (0 + 1) /
        // 4: weights 25/26 and 1/26.
        let tensor =
            operands(&[4], &[&[2.0, 4.0, 1.0, 3.0], &[4.0, 0.0, 1.0, -1.0]], Some(&[0.0; 4]));
        let found = merged(&Sce { select_topk: 0.67 }, &tensor);
        assert!(
            found.iter().zip([0.0, 4.0, 0.0, 3.0]).all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
        // All elements: 30/48 and 18/48.
        let found = merged(&Sce::default(), &tensor);
        let expected = [2.0 * 30.0 / 48.0 + 4.0 * 18.0 / 48.0, 4.0, 1.0, 3.0];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        assert!(Sce { select_topk: 1.1 }.check(2).is_err());
        assert_eq!(merged(&Sce { select_topk: 0.0 }, &tensor), [0.0; 4]);
    }
}
