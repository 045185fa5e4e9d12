//! A sum of the sources with numbers in front: `W = (sum_i c_i W_i + c_base base) / divisor`, the same for
//! the whole tensor, or others for each row or column.

use pulp::Arch;

use super::gram::Groups;
use super::{Blend, Block};

/// What linear methods come down to.
pub(super) struct Combination {
    /// Which elements have which numbers.
    pub groups: Groups,
    /// `c_i`, group by group, one a source.
    pub coefficients: Vec<f32>,
    /// `c_base` of each group; none: without the base.
    pub base: Vec<f32>,
    /// What the sum is divided by.
    pub divisor: f32,
}

impl Combination {
    /// The same numbers for the whole tensor.
    pub fn whole(coefficients: impl IntoIterator<Item = f64>) -> Self {
        let coefficients = coefficients.into_iter().map(|c| c as f32).collect();
        Self { groups: Groups::whole(), coefficients, base: Vec::new(), divisor: 1.0 }
    }

    /// `base + sum_i c_i (W_i - base)`, with the numbers of each group, one a source.
    pub fn from_base(groups: Groups, coefficients: &[Vec<f64>]) -> Self {
        let base = coefficients.iter().map(|c| (1.0 - c.iter().sum::<f64>()) as f32).collect();
        Self { base, ..Self::of(groups, coefficients) }
    }

    /// `sum_i c_i W_i`, with the numbers of each group, one a source.
    pub fn of(groups: Groups, coefficients: &[Vec<f64>]) -> Self {
        let coefficients = coefficients.iter().flatten().map(|c| *c as f32).collect();
        Self { groups, coefficients, base: Vec::new(), divisor: 1.0 }
    }
}

impl Blend for Combination {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        let sources = self.coefficients.len() / self.groups.count;
        let base = block.base().filter(|_| !self.base.is_empty());
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (group, range) in self.groups.runs(block.start(), out.len()) {
                    let out = &mut out[range.clone()];
                    let terms = (0..sources).map(|i| (self.coefficients[group * sources + i], block.source(i)));
                    let terms = terms.chain(base.map(|base| (self.base[group], base)));
                    for (i, (c, x)) in terms.enumerate() {
                        let terms = out.iter_mut().zip(x[range.clone()].iter().map(|x| c * x));
                        if i == 0 { terms.for_each(|(out, x)| *out = x) } else { terms.for_each(|(out, x)| *out += x) }
                    }
                    if self.divisor != 1.0 {
                        out.iter_mut().for_each(|out| *out /= self.divisor);
                    }
                }
            },
        );
    }
}
