//! NearSwap: swaps elements of the base for those of the other source if the two are close: with
//! `w = min(t / max(|W - base|, 1e-6), 1)`, the merge is `w W + (1 - w) base`.
//!
//! alchemonaut, QuartetAnemoi-70B (2024); mergekit's `nearswap`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Value, json};

use super::parameters::{self, Key, Scope};
use super::{Base, Blend, Block, Method, MethodEntry, Operands, Origin, ParameterValues};
use crate::error::Result;

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "nearswap",
    about: "the base, with nearby elements of one source swapped in",
    keys: &[Key { name: "t", default: "0.0001", scope: Scope::NeededWhole }],
    origin: Origin::Always,
    grid: &[("t", &["0.0001", "0.001", "0.01"])],
    make,
};

/// The base with nearby elements swapped in.
#[derive(Clone, Debug, PartialEq)]
pub struct NearSwap {
    /// The distance up to which an element is swapped completely; other elements move by this much.
    pub t: f64,
}

impl Default for NearSwap {
    fn default() -> Self {
        Self { t: 1e-4 }
    }
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(NearSwap { t: given.number("t")? }))
}

impl Method for NearSwap {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        json!({"t": self.t})
    }

    fn counts(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn base(&self) -> Base {
        Base::Origin
    }

    fn check(&self, _sources: usize) -> Result<()> {
        parameters::check(
            "t",
            &[self.t],
            1,
            |t| t >= 0.0,
            "a distance of at least 0, such as 0.0001",
        )
    }

    fn prepare(&self, _tensor: &Operands) -> Result<Box<dyn Blend>> {
        Ok(Box::new(Near(self.t as f32)))
    }
}

struct Near(f32);

impl Blend for Near {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        let source = block.source(0);
        let base = block.base().unwrap_or(block.source(0));
        for (out, (b, a)) in out.iter_mut().zip(source.iter().zip(base)) {
            let w = (self.0 / (a - b).abs().max(1e-6)).clamp(0.0, 1.0);
            *out = w * b + (1.0 - w) * a;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn close_elements_are_swapped_and_the_rest_move_by_t() {
        let tensor = operands(&[4], &[&[1.05, 2.0, 0.0, 1.0]], Some(&[1.0; 4]));
        let found = merged(&NearSwap { t: 0.1 }, &tensor);
        assert!(
            found.iter().zip([1.05, 1.1, 0.9, 1.0]).all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
        assert!(NearSwap { t: -1.0 }.check(1).is_err());
    }
}
