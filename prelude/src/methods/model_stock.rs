//! Model Stock: interpolates between the base and the average of the sources; the better the
//! sources agree, the closer to the average. With `cos` the mean cosine between pairs of task
//! vectors, `t = N cos / (1 + (N - 1) cos)` and `W = t mean_i(W_i) + (1 - t) base`, for whole
//! tensors or each row.
//!
//! Jang et al., arXiv 2403.19522; mergekit's `model_stock`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::combination::Combination;
use super::gram::{Gram, Grams, Groups};
use super::parameters::Key;
use super::{Base, Blend, Method, MethodEntry, Operands, Origin, ParameterValues};
use crate::error::Result;

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "model_stock",
    about: "interpolates between the base and the average, by the angles between task vectors",
    keys: &[Key::whole("filter_wise", "off")],
    origin: Origin::Always,
    grid: &[],
    make,
};

/// Interpolation between the base and the average of the sources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelStock {
    /// Whether each row has its own angles.
    pub filter_wise: bool,
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(ModelStock { filter_wise: given.switch("filter_wise")? }))
}

impl Method for ModelStock {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        json!({"filter_wise": self.filter_wise})
    }

    fn base(&self) -> Base {
        Base::Origin
    }

    fn check(&self, _sources: usize) -> Result<()> {
        Ok(())
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let groups =
            if self.filter_wise { Groups::rows(&tensor.spec().shape) } else { Groups::whole() };
        let n = tensor.sources();
        let shares = |gram| vec![ratio(gram, n) / n as f64; n];
        let coefficients = Grams::new(tensor, groups).iter().map(shares).collect::<Vec<_>>();
        Ok(Box::new(Combination::from_base(groups, &coefficients)))
    }
}

/// Returns the interpolation ratio `t`.
fn ratio(gram: Gram<'_>, n: usize) -> f64 {
    let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    let cosine =
        |(i, j)| (gram.product(i, j) / (gram.norm(i) * gram.norm(j)).max(1e-6)).clamp(-1.0, 1.0);
    let cosines: Vec<f64> = pairs.map(cosine).collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
    let n = n as f64;
    let divisor = 1.0 + (n - 1.0) * mean;
    // If the cosine is negative, no interpolation is closer: the base is kept.
    if divisor.abs() < 1e-6 { 0.0 } else { n * mean / divisor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn parallel_sources_are_averaged_and_orthogonal_ones_keep_the_base() {
        // Row 0: parallel task vectors; row 1: orthogonal ones.
        let sources: [&[f32]; 2] = [&[3.0, 1.0, 2.0, 1.0], &[3.0, 1.0, 1.0, 2.0]];
        let tensor = operands(&[2, 2], &sources, Some(&[1.0; 4]));
        let found = merged(&ModelStock { filter_wise: true }, &tensor);
        assert!(
            found.iter().zip([3.0, 1.0, 1.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
        // Whole tensor: <d0, d1> = 4, |d|^2 = 5, cos = 0.8, t = 1.6 / 1.8.
        let found = merged(&ModelStock::default(), &tensor);
        assert!((found[0] - (1.0 + 2.0 * 1.6 / 1.8)).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn opposite_task_vectors_keep_the_base() {
        let tensor = operands(&[1], &[&[1.5], &[-0.5]], Some(&[0.5]));
        assert_eq!(merged(&ModelStock::default(), &tensor), [0.5]);
    }
}
