//! The weighted average: `W = sum_i w_i W_i`, divided by `sum_i w_i` unless that is switched off.
//!
//! Model Soups (arXiv 2203.05482) with equal weights; mergekit's `linear`.

use serde_json::{Value, json};

use super::{Blend, Block, Method, Operands, Recipe, numbers, switch};
use crate::error::{Error, Result};

pub(super) const RECIPE: Recipe = Recipe {
    name: "linear",
    usage: "[weights=1,1,...] [normalize=on|off] [base=off|on]",
    about: "the weighted average of the sources",
    keys: &["weights", "normalize", "base"],
    build,
};

/// The weighted average of sources.
///
/// ```
/// use dam_prelude::methods::Linear;
/// use dam_prelude::{Bake, load};
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// let directory = tempfile::tempdir()?;
/// let method = Linear { weights: vec![0.7, 0.3], ..Linear::default() };
/// let merged = models.merge(&method, directory.path().join("merged"), &Bake::default())?;
/// assert!(merged.written.path.join("model.safetensors").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// One a source, in the order of loading; none: 1 each.
    pub weights: Vec<f64>,
    /// Divide by the sum of the weights.
    pub normalize: bool,
    /// Whether the base model is merged too, as a source of its own.
    pub with_base: bool,
}

impl Default for Linear {
    fn default() -> Self {
        Self { weights: Vec::new(), normalize: true, with_base: false }
    }
}

fn build(parameters: &[(&str, &str)]) -> Result<Box<dyn Method>> {
    let mut linear = Linear::default();
    for (key, value) in parameters {
        match *key {
            "weights" => linear.weights = numbers(key, value)?,
            "normalize" => linear.normalize = switch(key, value)?,
            "base" => linear.with_base = switch(key, value)?,
            _ => return Err(Error::unknown("key", key, RECIPE.keys.iter().copied())),
        }
    }
    Ok(Box::new(linear))
}

impl Method for Linear {
    fn name(&self) -> &'static str {
        RECIPE.name
    }

    fn parameters(&self) -> Value {
        let weights = if self.weights.is_empty() { json!("equal") } else { json!(self.weights) };
        json!({"weights": weights, "normalize": self.normalize})
    }

    fn merges_base(&self) -> bool {
        self.with_base
    }

    fn check(&self, sources: usize) -> Result<()> {
        let text = || self.weights.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let bad = |expected: String| Err(Error::bad_value("weights", &text(), expected));
        if self.weights.is_empty() {
            return Ok(());
        }
        if self.weights.len() != sources {
            return bad(format!("{sources} numbers, one for each source"));
        }
        if self.weights.iter().any(|w| !(*w as f32).is_finite()) {
            return bad("numbers that f32 can hold".into());
        }
        match self.normalize && self.weights.iter().sum::<f64>().abs() < 1e-6 {
            true => bad("weights whose sum is not 0, which they are divided by; or normalize=off".into()),
            false => Ok(()),
        }
    }

    fn prepare<'a>(&'a self, tensor: &Operands) -> Result<Box<dyn Blend + 'a>> {
        let weights = if self.weights.is_empty() { vec![1.0; tensor.sources()] } else { self.weights.clone() };
        let total = if self.normalize { weights.iter().sum() } else { 1.0 };
        Ok(Box::new(Sum { weights: weights.into_iter().map(|w| w as f32).collect(), total: total as f32 }))
    }
}

/// `sum_i weights_i * W_i / total`
struct Sum {
    weights: Vec<f32>,
    total: f32,
}

impl Blend for Sum {
    fn blend(&self, block: &Block<'_>, out: &mut [f32]) {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (i, weight) in self.weights.iter().enumerate() {
                    let terms = out.iter_mut().zip(block.source(i).iter().map(|x| weight * x));
                    if i == 0 { terms.for_each(|(out, x)| *out = x) } else { terms.for_each(|(out, x)| *out += x) }
                }
                out.iter_mut().for_each(|out| *out /= self.total);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_checked() {
        let linear = build(&[("weights", "1, 0.5,-0.25"), ("normalize", "off")]).unwrap();
        assert_eq!(linear.parameters(), json!({"weights": [1.0, 0.5, -0.25], "normalize": false}));
        assert!(linear.check(3).is_ok());
        assert!(linear.check(2).is_err());
        assert!(build(&[("weights", "1,x")]).is_err());
        assert!(build(&[("normalize", "yes")]).is_err());
        assert!(build(&[("weight", "1")]).is_err());
        assert!(build(&[("weights", "1,-1")]).unwrap().check(2).is_err());
        assert!(build(&[("weights", "1,-1"), ("normalize", "off")]).unwrap().check(2).is_ok());
    }
}
