//! Multi-SLERP: a weighted mean on the sphere. With `u_i = W_i / |W_i|` and `m` the direction of
//! `sum_i w_i u_i`, each `u_i` is projected to the tangent plane at `m`, `v_i = u_i - <u_i, m> m`;
//! `v = sum_i w_i v_i` is mapped back, `cos(|v|) m + sin(|v|) v / |v|`. The result has the weighted
//! mean norm.
//!
//! Goddard, "Multi-SLERP" (2025); mergekit's `multislerp`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::combination::Combination;
use super::gram::{Gram, Grams, Groups};
use super::parameters::{self, BASE, Key, WEIGHT};
use super::{Base, Blend, Method, MethodEntry, Operands, Origin, ParameterValues};
use crate::error::{Error, Result};

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "multislerp",
    about: "the weighted mean on the sphere, of any number of sources or their task vectors (base=on)",
    keys: &[WEIGHT, Key::whole("normalize_weights", "on"), Key::whole("eps", "1e-8"), BASE],
    origin: Origin::Optional,
    grid: &[],
    make,
};

/// A weighted mean on the sphere.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiSlerp {
    /// One weight per source, or one for all; empty: 1 each.
    pub weights: Vec<f64>,
    /// Divides the weights by their sum.
    pub normalize: bool,
    /// Added to norms used as divisors.
    pub eps: f64,
    /// Whether to merge task vectors instead of sources.
    pub from_base: bool,
}

impl Default for MultiSlerp {
    fn default() -> Self {
        Self { weights: Vec::new(), normalize: true, eps: 1e-8, from_base: false }
    }
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    Ok(Arc::new(MultiSlerp {
        weights: given.numbers("weight")?,
        normalize: given.switch("normalize_weights")?,
        eps: given.number("eps")?,
        from_base: given.switch("base")?,
    }))
}

impl Method for MultiSlerp {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        let weights = if self.weights.is_empty() { vec![1.0] } else { self.weights.clone() };
        json!({"weight": weights, "normalize_weights": self.normalize, "eps": self.eps})
    }

    fn base(&self) -> Base {
        if self.from_base { Base::Origin } else { Base::Apart }
    }

    fn check(&self, sources: usize) -> Result<()> {
        parameters::check_weights(&self.weights, sources)?;
        parameters::check("eps", &[self.eps], 1, |x| x > 0.0, "a small number above 0")?;
        let total: f64 = (0..sources).map(|i| parameters::of(&self.weights, i)).sum();
        if self.normalize && total.abs() < 1e-6 {
            let expected = "weights with a non-zero sum, or normalize_weights=off";
            return Err(Error::bad_value("weight", "a sum of 0", expected));
        }
        Ok(())
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let mut weights: Vec<f64> =
            (0..tensor.sources()).map(|i| parameters::of(&self.weights, i)).collect();
        let total: f64 = if self.normalize { weights.iter().sum() } else { 1.0 };
        weights.iter_mut().for_each(|w| *w /= total);
        let opposed = || Error::BadTensor {
            tensor: tensor.spec().name.clone(),
            reason: "the weighted sources cancel out".into(),
        };
        let mean = |gram| mean(gram, &weights, self.eps).ok_or_else(opposed);
        let coefficients =
            Grams::new(tensor, Groups::whole()).iter().map(mean).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(Combination::for_tensor(tensor, Groups::whole(), &coefficients)))
    }
}

/// Returns the coefficients of the mean as a combination of the vectors; `None` if it has no
/// direction.
fn mean(gram: Gram<'_>, weights: &[f64], eps: f64) -> Option<Vec<f64>> {
    let n = weights.len();
    let lengths: Vec<f64> = (0..n).map(|i| gram.norm(i)).collect();
    // Vectors are represented by their coefficients of the W_i.
    let unit = |i: usize| {
        (0..n).map(|k| if k == i { 1.0 / (lengths[i] + eps) } else { 0.0 }).collect::<Vec<f64>>()
    };
    let mean: Vec<f64> = (0..n).map(|i| weights[i] / (lengths[i] + eps)).collect();
    let length = gram.length(&mean);
    if length < eps {
        return (n == 2).then(|| weights.to_vec());
    }
    let mean: Vec<f64> = mean.iter().map(|x| x / length).collect();
    let mut tangent = vec![0.0; n];
    for (i, weight) in weights.iter().enumerate() {
        let unit = unit(i);
        let along = gram.between(&unit, &mean);
        for k in 0..n {
            tangent[k] += weight * (unit[k] - along * mean[k]);
        }
    }
    let angle = gram.length(&tangent) + eps;
    let scale: f64 = lengths.iter().zip(weights).map(|(length, weight)| length * weight).sum();
    Some(
        (0..n)
            .map(|k| scale * (mean[k] * angle.cos() + tangent[k] * angle.sin() / angle))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn the_mean_of_three_axes_is_their_diagonal() {
        let tensor = operands(&[3], &[&[3.0, 0.0, 0.0], &[0.0, 3.0, 0.0], &[0.0, 0.0, 3.0]], None);
        for x in merged(&MultiSlerp::default(), &tensor) {
            assert!((x - 3f32.sqrt()).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn sources_that_cancel_out_are_rejected_unless_there_are_two() {
        let two = operands(&[2], &[&[1.0, 1.0], &[-1.0, -1.0]], None);
        assert_eq!(merged(&MultiSlerp::default(), &two), [0.0, 0.0]);
        let four = operands(&[1], &[&[1.0], &[-1.0], &[1.0], &[-1.0]], None);
        let error = MultiSlerp::default().prepare(&four).err().unwrap();
        assert!(error.to_string().contains("cancel out") && error.hint().is_some(), "{error:?}");
        assert!(MultiSlerp { weights: vec![1.0, -1.0], ..MultiSlerp::default() }.check(2).is_err());
    }
}
