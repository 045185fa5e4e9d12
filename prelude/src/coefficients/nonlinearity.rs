//! `f`, the function applied to coefficients before they scale columns.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// The published choices of `f`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nonlinearity {
    /// `f(c) = c`
    #[default]
    None,
    /// `f(c) = tanh(c)`
    Tanh,
    /// `f(c) = 1 / (1 + exp(-c))`
    Sigmoid,
    /// `f(c) = max(c, 0)`
    Relu,
}

impl Nonlinearity {
    /// All choices.
    pub const ALL: [Self; 4] = [Self::None, Self::Tanh, Self::Sigmoid, Self::Relu];

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Nonlinearity::None => "none",
            Nonlinearity::Tanh => "tanh",
            Nonlinearity::Sigmoid => "sigmoid",
            Nonlinearity::Relu => "relu",
        }
    }

    /// Computes `f(c)`, elementwise and differentiable.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn apply(self, c: &Tensor) -> Result<Tensor> {
        match self {
            Nonlinearity::None => Ok(c.clone()),
            Nonlinearity::Tanh => c.tanh(),
            Nonlinearity::Sigmoid => (c.neg()?.exp()? + 1.0)?.recip(),
            Nonlinearity::Relu => c.relu(),
        }
    }

    /// Returns the interval of scales for which [`Nonlinearity::inverse`] is finite and `f` has a
    /// slope, so that training can go on from there.
    pub(crate) fn range(self) -> [f64; 2] {
        const MARGIN: f64 = 1e-3;
        match self {
            Nonlinearity::None => [f64::NEG_INFINITY, f64::INFINITY],
            Nonlinearity::Tanh => [MARGIN - 1.0, 1.0 - MARGIN],
            Nonlinearity::Sigmoid => [MARGIN, 1.0 - MARGIN],
            Nonlinearity::Relu => [MARGIN, f64::INFINITY],
        }
    }

    /// Returns the `c` with `f(c) = scale`, for a scale in [`Nonlinearity::range`].
    pub(crate) fn inverse(self, scale: f64) -> f64 {
        match self {
            Nonlinearity::None | Nonlinearity::Relu => scale,
            Nonlinearity::Tanh => scale.atanh(),
            Nonlinearity::Sigmoid => (scale / (1.0 - scale)).ln(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{differentiates, random};

    #[test]
    fn every_choice_passes_finite_differences() {
        for f in Nonlinearity::ALL {
            differentiates(&[random(&[3, 5], 1)], |v| f.apply(&v[0]));
        }
    }

    #[test]
    fn every_choice_has_an_inverse_on_its_range() {
        for f in Nonlinearity::ALL {
            let [low, high] = f.range().map(|x| x.clamp(-5.0, 5.0));
            for scale in [low, 0.25 * high + 0.75 * low, 0.5 * (low + high), high] {
                let c = Tensor::new(f.inverse(scale), &candle_core::Device::Cpu).unwrap();
                let back = f.apply(&c).unwrap().to_scalar::<f64>().unwrap();
                assert!((back - scale).abs() < 1e-12, "{f:?}: {back} and {scale}");
            }
        }
    }
}
