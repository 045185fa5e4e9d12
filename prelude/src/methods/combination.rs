//! A linear combination of the sources: `W = (sum_i c_i W_i + c_base base) / divisor`, with
//! coefficients for the whole tensor, or for each row or column.

use super::gram::Groups;
use super::{Blend, Block, Operands};
use crate::vectorised::vectorised;

/// The result of preparing a linear method.
pub(super) struct Combination {
    /// The vectors that share coefficients.
    pub groups: Groups,
    /// `c_i`: group by group, one per source.
    pub coefficients: Vec<f32>,
    /// `c_base` of each group; empty without the base.
    pub base: Vec<f32>,
    /// The divisor of the sum.
    pub divisor: f32,
}

impl Combination {
    /// Uses the same coefficients for the whole tensor.
    pub fn whole(coefficients: impl IntoIterator<Item = f64>) -> Self {
        let coefficients = coefficients.into_iter().map(|c| c as f32).collect();
        Self { groups: Groups::whole(), coefficients, base: Vec::new(), divisor: 1.0 }
    }

    /// Returns [`Combination::from_base`] if `tensor` has a base, else [`Combination::of`].
    pub fn for_tensor(tensor: &Operands, groups: Groups, coefficients: &[Vec<f64>]) -> Self {
        if tensor.has_base() {
            Self::from_base(groups, coefficients)
        } else {
            Self::of(groups, coefficients)
        }
    }

    /// Returns `base + sum_i c_i (W_i - base)`, with one coefficient per group and source.
    pub fn from_base(groups: Groups, coefficients: &[Vec<f64>]) -> Self {
        let base = coefficients.iter().map(|c| (1.0 - c.iter().sum::<f64>()) as f32).collect();
        Self { base, ..Self::of(groups, coefficients) }
    }

    /// Returns `sum_i c_i W_i`, with one coefficient per group and source.
    pub fn of(groups: Groups, coefficients: &[Vec<f64>]) -> Self {
        let coefficients = coefficients.iter().flatten().map(|c| *c as f32).collect();
        Self { groups, coefficients, base: Vec::new(), divisor: 1.0 }
    }
}

impl Blend for Combination {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        let sources = self.coefficients.len() / self.groups.count;
        let base = block.base().filter(|_| !self.base.is_empty());
        vectorised(
            #[inline(always)]
            || {
                for (group, range) in self.groups.runs(block.start(), out.len()) {
                    let out = &mut out[range.clone()];
                    let terms = (0..sources)
                        .map(|i| (self.coefficients[group * sources + i], block.source(i)));
                    let terms = terms.chain(base.map(|base| (self.base[group], base)));
                    for (i, (c, x)) in terms.enumerate() {
                        let terms = out.iter_mut().zip(x[range.clone()].iter().map(|x| c * x));
                        if i == 0 {
                            terms.for_each(|(out, x)| *out = x)
                        } else {
                            terms.for_each(|(out, x)| *out += x)
                        }
                    }
                    if self.divisor != 1.0 {
                        out.iter_mut().for_each(|out| *out /= self.divisor);
                    }
                }
            },
        );
    }
}
