//! Task vectors added to the base: the common part of TIES, DARE, DELLA, Breadcrumbs and task
//! arithmetic.
//!
//! 1. `d_i = W_i - base`, sparsified and rescaled (`sparsify.rs`), times `w_i`;
//! 2. with sign consensus, each element's elected sign is that of `sum_i w_i d_i` (0 counts as +),
//!    and elements of the other sign are dropped;
//! 3. the sum, with `normalize` divided by the sum of the weights of the remaining elements;
//! 4. `W = base + lambda * sum`.
//!
//! The order of operations and the numbers are mergekit's.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::parameters::{self, INT8_MASK, Key, WEIGHT, of};
use super::sparsify::{Selection, thin};
use super::{Base, Blend, Block, Method, Operands, ParameterValues, Rescale, Sparsify};
use crate::error::{Error, Result};
use crate::vectorised::vectorised;

/// A merge of task vectors. `ties()` and similar functions create one; its fields can be changed.
///
/// ```
/// use dam_prelude::methods::{Method, TaskVectors, ties};
///
/// let method = TaskVectors { density: vec![0.5], ..ties() };
/// assert_eq!(method.name(), "ties");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TaskVectors {
    /// The name of the method.
    pub name: &'static str,
    /// One weight per source, or one for all; empty: 1 each.
    pub weight: Vec<f64>,
    /// The fraction of kept elements, 0 to 1: one per source, or one for all.
    pub density: Vec<f64>,
    /// The rule that selects the kept elements.
    pub sparsify: Sparsify,
    /// The rescaling of the kept elements.
    pub rescale: Rescale,
    /// Whether sign consensus is applied.
    pub signs: Signs,
    /// Divides by the sum of the weights.
    pub normalize: bool,
    /// The factor of the sum before it is added to the base.
    pub lambda: f64,
}

/// Which elements are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signs {
    /// All elements.
    All,
    /// Those of the elected sign.
    Elected,
}

/// The parameters common to these methods.
pub(super) const DENSITY: Key = Key::each("density", "1");
pub(super) const NORMALIZE_OFF: Key = Key::whole("normalize", "off");
pub(super) const RESCALE: Key = Key::whole("rescale", "on");
pub(super) const RESCALE_OFF: Key = Key::whole("rescale", "off");
pub(super) const LAMBDA: Key = Key::whole("lambda", "1");
pub(super) const SEED: Key = Key::whole("seed", "0");
pub(super) const TASK_ARITHMETIC: &[Key] =
    &[WEIGHT, DENSITY, NORMALIZE_OFF, RESCALE_OFF, LAMBDA, INT8_MASK];

impl TaskVectors {
    /// The plain sum, `base + sum_i (W_i - base)`.
    pub(super) fn plain(name: &'static str) -> Self {
        Self {
            name,
            weight: vec![1.0],
            density: vec![1.0],
            sparsify: Sparsify::Nothing,
            rescale: Rescale::Off,
            signs: Signs::All,
            normalize: false,
            lambda: 1.0,
        }
    }

    /// Returns this method with the given parameters.
    pub(super) fn given(self, given: &ParameterValues) -> Result<Arc<dyn Method>> {
        let rescale = match given.text("rescale").as_str() {
            "density" if matches!(self.sparsify, Sparsify::Random { .. }) => Rescale::Density,
            _ if given.switch("rescale")? => Rescale::L1,
            _ => Rescale::Off,
        };
        let sparsify = match self.sparsify {
            Sparsify::Outliers { .. } => Sparsify::Outliers { gamma: given.numbers("gamma")? },
            Sparsify::Random { .. } => Sparsify::Random { seed: given.count("seed")? },
            Sparsify::Ranked { .. } => {
                Sparsify::Ranked { epsilon: given.numbers("epsilon")?, seed: given.count("seed")? }
            }
            other => other,
        };
        given.switch(INT8_MASK.name)?;
        Ok(Arc::new(Self {
            weight: given.numbers("weight")?,
            density: given.numbers("density")?,
            sparsify,
            rescale,
            normalize: given.switch("normalize")?,
            lambda: given.number("lambda")?,
            ..self
        }))
    }
}

impl Method for TaskVectors {
    fn name(&self) -> &'static str {
        self.name
    }

    fn parameters(&self) -> Value {
        let rescale = match self.rescale {
            Rescale::Off => json!(false),
            Rescale::L1 => json!(true),
            Rescale::Density => json!("density"),
        };
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| all.insert(key.to_owned(), value);
        put("weight", json!(self.weight));
        put("density", json!(self.density));
        match &self.sparsify {
            Sparsify::Nothing | Sparsify::Magnitude => None,
            Sparsify::Outliers { gamma } => put("gamma", json!(gamma)),
            Sparsify::Random { seed } => put("seed", json!(seed)),
            Sparsify::Ranked { epsilon, seed } => {
                put("epsilon", json!(epsilon));
                put("seed", json!(seed))
            }
        };
        put("rescale", rescale);
        put("normalize", json!(self.normalize));
        put("lambda", json!(self.lambda));
        Value::Object(all)
    }

    fn counts(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    fn base(&self) -> Base {
        Base::Origin
    }

    fn check(&self, sources: usize) -> Result<()> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        parameters::check_weights(&self.weight, sources)?;
        parameters::check("density", &self.density, sources, share, "numbers from 0 to 1")?;
        parameters::check("lambda", &[self.lambda], 1, |_| true, "a number representable in f32")?;
        match &self.sparsify {
            Sparsify::Outliers { gamma } => {
                parameters::check("gamma", gamma, sources, share, "numbers from 0 to 1")
            }
            Sparsify::Ranked { epsilon, .. } => {
                parameters::check("epsilon", epsilon, sources, share, "numbers from 0 to 1")?;
                for i in 0..sources {
                    let density = of(&self.density, i);
                    let epsilon = of(epsilon, i);
                    let draws = density > 0.0 && density < 1.0;
                    if draws && (density - epsilon <= 0.0 || density + epsilon >= 1.0) {
                        let expected = "a value for which density - epsilon and density + epsilon are between 0 and 1";
                        return Err(Error::bad_value("epsilon", &epsilon.to_string(), expected));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let weights: Vec<f32> = (0..tensor.sources()).map(|i| of(&self.weight, i) as f32).collect();
        let total: f32 = weights.iter().sum();
        let divisor = if self.normalize && self.signs == Signs::Elected {
            Divisor::Weights
        } else if self.normalize && total.abs() >= 1e-8 {
            Divisor::Constant(total)
        } else {
            Divisor::Constant(1.0)
        };
        Ok(Box::new(Added {
            kept: self.sparsify.kept(tensor, &self.density, self.rescale),
            consensus: Consensus {
                weights,
                signs: self.signs,
                weight_order: WeightOrder::BeforeElection,
                divisor,
                lambda: self.lambda as f32,
            },
        }))
    }
}

/// Steps 1 to 4.
struct Added {
    kept: Vec<Selection>,
    consensus: Consensus,
}

impl Blend for Added {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || {
                thin(&self.kept, block);
                self.consensus.add(block, out);
            },
        );
    }
}

/// Steps 2 to 4, shared with SCE.
pub(super) struct Consensus {
    pub weights: Vec<f32>,
    pub signs: Signs,
    /// Whether weights apply before signs are elected, or only in the sum.
    pub weight_order: WeightOrder,
    pub divisor: Divisor,
    pub lambda: f32,
}

/// When task vectors are multiplied by their weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WeightOrder {
    BeforeElection,
    AfterElection,
}

/// The divisor of the sum.
#[derive(Clone, Copy)]
pub(super) enum Divisor {
    /// A constant.
    Constant(f32),
    /// The sum of the weights of the remaining elements; 1 if that is 0.
    Weights,
    /// The same with a lower bound.
    WeightsAtLeast(f32),
}

impl Consensus {
    /// Sums the task vectors in `block` and adds them to its base.
    #[inline(always)]
    pub fn add(&self, block: &mut Block<'_>, out: &mut [f32]) {
        let [mut sums, mut divisor] = [[0f32; super::TILE]; 2];
        let sums = &mut sums[..out.len()];
        let divisor = &mut divisor[..out.len()];
        // The factors of a task vector before and after signs are elected.
        let factors = |weight: f32| {
            if self.weight_order == WeightOrder::BeforeElection {
                (weight, 1.0)
            } else {
                (1.0, weight)
            }
        };
        for (i, weight) in self.weights.iter().enumerate() {
            let (weight, _) = factors(*weight);
            let elements = sums.iter_mut().zip(block.source_mut(i));
            elements.for_each(|(sum, x)| {
                *x *= weight;
                *sum += *x;
            });
        }
        match self.signs {
            Signs::All => out.copy_from_slice(sums),
            Signs::Elected => {
                out.fill(0.0);
                for (i, weight) in self.weights.iter().enumerate() {
                    let (_, factor) = factors(*weight);
                    let elements = out
                        .iter_mut()
                        .zip(divisor.iter_mut())
                        .zip(sums.iter().zip(block.source(i)));
                    for ((out, divisor), (sum, x)) in elements {
                        let agrees = if *sum >= 0.0 { *x > 0.0 } else { *x < 0.0 };
                        *out += if agrees { factor * x } else { 0.0 };
                        *divisor += if agrees { *weight } else { 0.0 };
                    }
                }
            }
        }
        match self.divisor {
            Divisor::Constant(1.0) => {}
            Divisor::Constant(total) => out.iter_mut().for_each(|x| *x /= total),
            Divisor::Weights => {
                out.iter_mut()
                    .zip(divisor)
                    .for_each(|(x, total)| *x /= if *total == 0.0 { 1.0 } else { *total });
            }
            Divisor::WeightsAtLeast(least) => {
                out.iter_mut().zip(divisor).for_each(|(x, total)| *x /= total.max(least))
            }
        }
        if self.lambda != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.lambda);
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
    use crate::methods::{della, ties};

    #[test]
    fn elects_signs_and_divides_by_the_remaining_weights() {
        // Task vectors (1, -2, 0) and (3, 1, 0); sums 4, -1, 0.
        let tensor = operands(&[3], &[&[2.0, -1.0, 1.0], &[4.0, 2.0, 1.0]], Some(&[1.0; 3]));
        assert_eq!(merged(&ties(), &tensor), [3.0, -1.0, 1.0]);
        let weighed = TaskVectors { weight: vec![0.5, 2.0], lambda: 2.0, ..ties() };
        // (0.5 + 6) / 2.5, and 2 / 2 because the second source has the larger weight there.
        assert_eq!(merged(&weighed, &tensor), [1.0 + 2.0 * 6.5 / 2.5, 1.0 + 2.0, 1.0]);
        let sum = TaskVectors { normalize: false, ..ties() };
        assert_eq!(merged(&sum, &tensor), [5.0, -1.0, 1.0]);
        let plain =
            TaskVectors { normalize: true, weight: vec![1.0, -1.0], ..TaskVectors::plain("plain") };
        assert_eq!(merged(&plain, &tensor), [-1.0, -2.0, 1.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bad = [
            TaskVectors { density: vec![1.5], ..ties() },
            TaskVectors { density: vec![0.5, 0.5], ..ties() },
            TaskVectors { weight: vec![1e39], ..ties() },
            TaskVectors { lambda: f64::NAN, ..ties() },
            TaskVectors { sparsify: Sparsify::Outliers { gamma: vec![-0.1] }, ..ties() },
            TaskVectors { density: vec![0.9], ..della() },
        ];
        for method in bad {
            assert!(method.check(3).is_err(), "{method:?}");
        }
        assert!(TaskVectors { density: vec![0.5], ..della() }.check(3).is_ok());
        let given = [("rescale", "density")];
        assert!(crate::methods::find("dare_ties").unwrap().build(&given).is_ok());
        assert!(crate::methods::find("ties").unwrap().build(&given).is_err());
    }
}
