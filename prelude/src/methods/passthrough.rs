//! Passthrough: one source unchanged, times `scale`. With slices in a recipe, it stacks layers.
//!
//! mergekit's `passthrough`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Value, json};

use super::combination::Combination;
use super::parameters::{self, Key};
use super::{Blend, Method, MethodEntry, Operands, Origin, ParameterValues};
use crate::error::Result;

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "passthrough",
    about: "one source, unchanged or scaled; with slices, stacks layers of sources",
    keys: &[Key::each("scale", "none")],
    origin: Origin::Never,
    grid: &[],
    make,
};

/// One source, unchanged or scaled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passthrough {
    /// The factor; `None` keeps the values.
    pub scale: Option<f64>,
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    let scale = if given.has("scale") { Some(given.number("scale")?) } else { None };
    Ok(Arc::new(Passthrough { scale }))
}

impl Method for Passthrough {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        json!({"scale": self.scale})
    }

    fn counts(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn check(&self, sources: usize) -> Result<()> {
        parameters::check(
            "scale",
            self.scale.as_slice(),
            sources,
            |_| true,
            "a number representable in f32",
        )
    }

    fn prepare(&self, _tensor: &Operands) -> Result<Box<dyn Blend>> {
        Ok(Box::new(Combination::whole([self.scale.unwrap_or(1.0)])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn keeps_or_scales_the_source() {
        let tensor = operands(&[2], &[&[1.5, -2.0]], None);
        assert_eq!(merged(&Passthrough::default(), &tensor), [1.5, -2.0]);
        assert_eq!(merged(&*ENTRY.build(&[("scale", "-2")]).unwrap(), &tensor), [-3.0, 4.0]);
    }
}
