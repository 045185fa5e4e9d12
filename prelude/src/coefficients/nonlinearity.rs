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
}
