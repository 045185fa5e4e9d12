//! SLERP: interpolation along the great circle from the first source to the second. With `theta`
//! the angle between the two tensors, `W = sin((1 - t) theta) / sin(theta) W_0 + sin(t theta) /
//! sin(theta) W_1`. The weights apply to the tensors, not to their directions; nearly parallel
//! tensors are interpolated linearly.
//!
//! Shoemake, "Animating rotation with quaternion curves" (1985); mergekit's `slerp`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Value, json};

use super::combination::Combination;
use super::gram::{Grams, Groups};
use super::parameters::{BASE, Key, Scope};
use super::{Base, Blend, Method, MethodEntry, Operands, Origin, ParameterValues};
use crate::error::{Error, Result};

/// The cosine above which interpolation is linear.
const PARALLEL: f64 = 0.9995;

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "slerp",
    about: "spherical interpolation from the first of two sources (t=0) to the second (t=1)",
    keys: &[Key { name: "t", default: "0.5", scope: Scope::NeededWhole }, BASE],
    origin: Origin::Never,
    grid: &[("t", &["0.3", "0.4", "0.5", "0.6", "0.7"])],
    make,
};

/// Spherical interpolation between two sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Slerp {
    /// The position: 0 is the first source, 1 the second.
    pub t: f64,
    /// Whether the base model is one of the two.
    pub with_base: bool,
}

impl Default for Slerp {
    fn default() -> Self {
        Self { t: 0.5, with_base: false }
    }
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Slerp { t: given.number("t")?, with_base: given.switch("base")? }))
}

impl Method for Slerp {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        json!({"t": self.t})
    }

    fn counts(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn base(&self) -> Base {
        if self.with_base { Base::Source } else { Base::Apart }
    }

    fn check(&self, _sources: usize) -> Result<()> {
        if !(self.t as f32).is_finite() {
            let expected = "a number: 0 for the first source, 1 for the second";
            return Err(Error::bad_value("t", &self.t.to_string(), expected));
        }
        Ok(())
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let grams = Grams::new(tensor, Groups::whole());
        let coefficients = grams.iter().map(|gram| {
            // Norms near 0 are replaced by 1.
            let unit = |norm: f64| if norm > 1e-8 { norm } else { 1.0 };
            let cosine = gram.product(0, 1) / (unit(gram.norm(0)) * unit(gram.norm(1)));
            if cosine.abs() > PARALLEL {
                line(self.t).to_vec()
            } else {
                arc(self.t, cosine.acos()).to_vec()
            }
        });
        Ok(Box::new(Combination::of(Groups::whole(), &coefficients.collect::<Vec<_>>())))
    }
}

/// Returns the weights of two points at `t` on the line between them.
pub(super) fn line(t: f64) -> [f64; 2] {
    [1.0 - t, t]
}

/// Returns the weights of two points at `t` on the arc between them, of angle `theta`.
pub(super) fn arc(t: f64, theta: f64) -> [f64; 2] {
    [((1.0 - t) * theta).sin() / theta.sin(), (t * theta).sin() / theta.sin()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn the_midpoint_of_two_axes_is_the_diagonal() {
        let tensor = operands(&[2], &[&[2.0, 0.0], &[0.0, 2.0]], None);
        let root = 2f32.sqrt();
        for (x, expected) in merged(&Slerp::default(), &tensor).iter().zip([root, root]) {
            assert!((x - expected).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn parallel_tensors_and_zeros_are_interpolated_linearly() {
        let parallel = operands(&[2], &[&[1.0, 1.0], &[3.0, 3.0]], None);
        assert_eq!(merged(&Slerp { t: 0.25, ..Slerp::default() }, &parallel), [1.5, 1.5]);
        let zero = operands(&[2], &[&[0.0, 0.0], &[4.0, 0.0]], None);
        // The angle to a zero tensor counts as a right angle: sin(pi / 4).
        assert!((merged(&Slerp::default(), &zero)[0] - 4.0 * 0.5f32.sqrt()).abs() < 1e-6);
    }
}
