//! The weighted average: `W = sum_i w_i W_i`, divided by `sum_i w_i` unless `normalize` is off.
//!
//! Model Soups (arXiv 2203.05482) with equal weights; mergekit's `linear`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::combination::Combination;
use super::parameters::{self, BASE, NORMALIZE, WEIGHT};
use super::{Base, Blend, Method, MethodEntry, Operands, Origin, ParameterValues};
use crate::error::{Error, Result};

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "linear",
    about: "the weighted average of the sources",
    keys: &[WEIGHT, NORMALIZE, BASE],
    origin: Origin::Never,
    grid: &[],
    make,
};

/// The weighted average of the sources.
///
/// ```
/// use dam_prelude::load;
/// use dam_prelude::methods::Linear;
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// let merged = models.merge(Linear { weights: vec![0.7, 0.3], ..Linear::default() })?;
/// let directory = tempfile::tempdir()?;
/// let written = merged.bake(directory.path().join("merged"))?;
/// assert!(written.path.join("model.safetensors").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// One weight per source in load order, or one for all; empty: 1 each.
    pub weights: Vec<f64>,
    /// Divides by the sum of the weights.
    pub normalize: bool,
    /// Whether the base model is merged too, as another source.
    pub with_base: bool,
}

impl Default for Linear {
    fn default() -> Self {
        Self { weights: Vec::new(), normalize: true, with_base: false }
    }
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(Linear {
        weights: given.numbers("weight")?,
        normalize: given.switch("normalize")?,
        with_base: given.switch("base")?,
    }))
}

impl Method for Linear {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        json!({"weight": self.weights, "normalize": self.normalize})
    }

    fn base(&self) -> Base {
        if self.with_base { Base::Source } else { Base::Apart }
    }

    fn check(&self, sources: usize) -> Result<()> {
        parameters::check_weights(&self.weights, sources)?;
        let total: f64 = (0..sources).map(|i| parameters::of(&self.weights, i)).sum();
        if self.normalize && total.abs() < 1e-6 {
            let text = self.weights.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
            let expected = "weights with a non-zero sum, or normalize=off";
            return Err(Error::bad_value("weight", &text, expected));
        }
        Ok(())
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let weights = (0..tensor.sources()).map(|i| parameters::of(&self.weights, i));
        let divisor = if self.normalize { weights.clone().sum::<f64>() as f32 } else { 1.0 };
        Ok(Box::new(Combination { divisor, ..Combination::whole(weights) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_checked() {
        let linear =
            |text, normalize| ENTRY.build(&[("weight", text), ("normalize", normalize)]).unwrap();
        assert!(linear("1,0.5,-0.25", "off").check(3).is_ok());
        assert!(linear("1,0.5,-0.25", "off").check(2).is_err());
        assert!(linear("1,-1", "on").check(2).is_err());
        assert!(linear("1,-1", "off").check(2).is_ok());
        assert!(Linear::default().check(7).is_ok());
    }
}
