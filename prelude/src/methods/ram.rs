//! Reinforced Agent Merging: an element changed by a single source since the base is taken
//! unchanged; one changed by several sources is their mean. Sources tuned by reinforcement learning
//! change few weights, and an average would dilute them. `ramplus_tl` scales unshared changes by `1
//! + r min(s / u, alpha)`, where `s` is the number of changed elements of a source's tensor that it
//! shares with others and `u` the number that it does not.
//!
//! arXiv 2601.13572; mergekit's `ram` and `ramplus_tl`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Value, json};

use super::parameters::{self, Key};
use super::{Base, Blend, Block, Method, MethodEntry, Operands, Origin, ParameterValues, TILE};
use crate::error::Result;

const EPSILON: Key = Key::whole("epsilon", "1e-5");

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "ram",
    about: "changes of a single source unchanged, changes of several averaged",
    keys: &[EPSILON],
    origin: Origin::Always,
    grid: &[],
    make: |given| Ok(Arc::new(Ram { epsilon: given.number("epsilon")?, plus: None })),
};

pub(super) const PLUS: MethodEntry = MethodEntry {
    name: "ramplus_tl",
    about: "the same, with unshared changes amplified if many are shared",
    keys: &[Key::whole("r", "0.1"), Key::whole("alpha", "0.2"), EPSILON],
    make: plus,
    ..ENTRY
};

/// Merges changes, depending on whether sources share them.
#[derive(Clone, Debug, PartialEq)]
pub struct Ram {
    /// Changes up to this size are ignored.
    pub epsilon: f64,
    /// `r` and `alpha` of `ramplus_tl`; `None` for `ram`.
    pub plus: Option<(f64, f64)>,
}

impl Default for Ram {
    fn default() -> Self {
        Self { epsilon: 1e-5, plus: None }
    }
}

impl Ram {
    /// Returns `ramplus_tl` with its default parameters.
    pub fn plus() -> Self {
        Self { plus: Some((0.1, 0.2)), ..Self::default() }
    }
}

fn plus(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    let plus = Some((given.number("r")?, given.number("alpha")?));
    Ok(Arc::new(Ram { epsilon: given.number("epsilon")?, plus }))
}

impl Method for Ram {
    fn name(&self) -> &'static str {
        if self.plus.is_some() { PLUS.name } else { ENTRY.name }
    }

    fn parameters(&self) -> Value {
        match self.plus {
            Some((r, alpha)) => json!({"r": r, "alpha": alpha, "epsilon": self.epsilon}),
            None => json!({"epsilon": self.epsilon}),
        }
    }

    fn counts(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    fn base(&self) -> Base {
        Base::Origin
    }

    fn check(&self, _sources: usize) -> Result<()> {
        let (r, alpha) = self.plus.unwrap_or_default();
        parameters::check(
            "epsilon",
            &[self.epsilon],
            1,
            |x| x >= 0.0,
            "a size of at least 0, such as 1e-5",
        )?;
        parameters::check("r", &[r], 1, |_| true, "a number, such as 0.1")?;
        parameters::check("alpha", &[alpha], 1, |x| x >= 0.0, "a ratio of at least 0, such as 0.2")
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let n = tensor.sources();
        let epsilon = self.epsilon as f32;
        let Some((r, alpha)) = self.plus else {
            return Ok(Box::new(Changed { epsilon, scales: vec![1.0; n] }));
        };
        let look = |counts: &mut Vec<[u64; 2]>, block: &mut Block<'_>| {
            let changing = changing(epsilon, block);
            for (i, [shared, own]) in counts.iter_mut().enumerate() {
                for (_, changing) in
                    block.source(i).iter().zip(changing).filter(|(x, _)| x.abs() > epsilon)
                {
                    if changing > 1 { *shared += 1 } else { *own += 1 }
                }
            }
        };
        let add = |a: &mut Vec<[u64; 2]>, b: Vec<[u64; 2]>| {
            a.iter_mut().flatten().zip(b.into_iter().flatten()).for_each(|(a, b)| *a += b);
        };
        let counts = tensor.tally(|| vec![[0; 2]; n], look, add);
        let scale = |[shared, own]: [u64; 2]| {
            1.0 + r * (shared as f64 / (own as f64).max(self.epsilon)).clamp(0.0, alpha)
        };
        Ok(Box::new(Changed {
            epsilon,
            scales: counts.into_iter().map(|counts| scale(counts) as f32).collect(),
        }))
    }
}

/// Turns sources into task vectors; returns how many of them change each element.
#[inline(always)]
fn changing(epsilon: f32, block: &mut Block<'_>) -> [u32; TILE] {
    block.subtract_base();
    let mut counts = [0; TILE];
    for i in 0..block.sources() {
        counts
            .iter_mut()
            .zip(block.source(i))
            .for_each(|(count, x)| *count += u32::from(x.abs() > epsilon));
    }
    counts
}

struct Changed {
    epsilon: f32,
    /// The factor of unshared changes, by source.
    scales: Vec<f32>,
}

impl Blend for Changed {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        let changing = changing(self.epsilon, block);
        out.fill(0.0);
        for (i, scale) in self.scales.iter().enumerate() {
            for ((out, x), changing) in out.iter_mut().zip(block.source(i)).zip(changing) {
                let part = if changing > 1 { x / changing as f32 } else { x * scale };
                *out += if x.abs() > self.epsilon { part } else { 0.0 };
            }
        }
        if let Some(base) = block.base() {
            out.iter_mut().zip(base).for_each(|(x, base)| *x += base);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn unshared_changes_are_kept_and_shared_ones_averaged() {
        // Task vectors (2, 0, 1, 0) and (4, 3, 0, 0): one change is shared, each has one unshared.
        let tensor =
            operands(&[4], &[&[3.0, 1.0, 2.0, 1.0], &[5.0, 4.0, 1.0, 1.0]], Some(&[1.0; 4]));
        assert_eq!(merged(&Ram::default(), &tensor), [4.0, 4.0, 2.0, 1.0]);
        // A ratio of 1, limited to 0.2: factor 1.02.
        let found = merged(&Ram::plus(), &tensor);
        assert!(
            found.iter().zip([4.0, 4.06, 2.02, 1.0]).all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
        assert!(Ram { epsilon: -1.0, ..Ram::default() }.check(2).is_err());
    }
}
