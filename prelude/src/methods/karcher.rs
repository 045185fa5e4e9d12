//! The Karcher mean: the point on the sphere with the least sum of squared angles to all `u_i = W_i
//! / |W_i|`. Starting from the normalised mean, it follows the mean tangent vector, `u <-
//! exp_u(mean_i log_u(u_i))`. The result has the mean norm of the sources.
//!
//! Karcher, "Riemannian center of mass and mollifier smoothing" (1977); mergekit's `karcher`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::combination::Combination;
use super::gram::{Gram, Grams, Groups};
use super::parameters::{self, BASE, Key};
use super::{Base, Blend, Method, MethodEntry, Operands, Origin, ParameterValues};
use crate::error::Result;

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "karcher",
    about: "the mean on the sphere: least squared angles to all sources",
    keys: &[Key::whole("max_iter", "10"), Key::whole("tol", "1e-5"), BASE],
    origin: Origin::Never,
    grid: &[],
    make,
};

/// The Karcher mean of the sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Karcher {
    /// The maximum number of iterations.
    pub max_iter: u64,
    /// The step length at which the iteration ends.
    pub tol: f64,
    /// Whether the base model is merged too, as another source.
    pub with_base: bool,
}

impl Default for Karcher {
    fn default() -> Self {
        Self { max_iter: 10, tol: 1e-5, with_base: false }
    }
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    let with_base = given.switch("base")?;
    Ok(Arc::new(Karcher {
        max_iter: given.count("max_iter")?,
        tol: given.number("tol")?,
        with_base,
    }))
}

impl Method for Karcher {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        json!({"max_iter": self.max_iter, "tol": self.tol})
    }

    fn base(&self) -> Base {
        if self.with_base { Base::Source } else { Base::Apart }
    }

    fn check(&self, _sources: usize) -> Result<()> {
        parameters::check("tol", &[self.tol], 1, |x| x > 0.0, "a small number above 0")?;
        parameters::check(
            "max_iter",
            &[self.max_iter as f64],
            1,
            |x| x <= 1e6,
            "at most 1000000 iterations",
        )
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let coefficients: Vec<Vec<f64>> =
            Grams::new(tensor, Groups::whole()).iter().map(|gram| self.mean(gram)).collect();
        Ok(Box::new(Combination::of(Groups::whole(), &coefficients)))
    }
}

impl Karcher {
    /// Returns the coefficients of the mean as a combination of the vectors.
    fn mean(&self, gram: Gram<'_>) -> Vec<f64> {
        let n = gram.sources();
        let lengths: Vec<f64> = (0..n).map(|i| gram.norm(i)).collect();
        let mean_length = lengths.iter().sum::<f64>() / n as f64;
        // Zero tensors have no direction.
        let valid: Vec<usize> = (0..n).filter(|i| lengths[*i] > self.tol).collect();
        let Some(first) = valid.first() else { return vec![0.0; n] };
        let share = 1.0 / valid.len() as f64;
        let unit = |i: usize| {
            let mut unit = vec![0.0; n];
            unit[i] = 1.0 / lengths[i];
            unit
        };
        let mut u = vec![0.0; n];
        valid.iter().for_each(|i| u[*i] = share / lengths[*i]);
        match gram.length(&u) {
            length if length < self.tol => u = unit(*first),
            length => u.iter_mut().for_each(|x| *x /= length),
        }
        for _ in 0..self.max_iter {
            let mut step = vec![0.0; n];
            for i in &valid {
                let unit = unit(*i);
                let cosine = gram.between(&u, &unit).clamp(-1.0, 1.0);
                let theta = cosine.acos();
                // To the antipodal point, all directions are equally long.
                if theta < self.tol || theta.sin() < f64::EPSILON {
                    continue;
                }
                for k in 0..n {
                    step[k] += share * theta / theta.sin() * (unit[k] - cosine * u[k]);
                }
            }
            let angle = gram.length(&step);
            if angle < self.tol {
                break;
            }
            (0..n).for_each(|k| u[k] = angle.cos() * u[k] + angle.sin() * step[k] / angle);
            let length = gram.length(&u);
            if length > self.tol {
                u.iter_mut().for_each(|x| *x /= length);
            }
        }
        u.iter().map(|x| mean_length * x).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    #[test]
    fn the_mean_of_two_is_the_midpoint_and_zeros_only_shorten_it() {
        let half = 0.5f32.sqrt();
        let two = operands(&[2], &[&[1.0, 0.0], &[0.0, 3.0]], None);
        let with_zero = operands(&[2], &[&[3.0, 0.0], &[0.0, 3.0], &[0.0, 0.0]], None);
        for tensor in [two, with_zero] {
            for x in merged(&Karcher::default(), &tensor) {
                assert!((x - 2.0 * half).abs() < 1e-6, "{x}");
            }
        }
        let zeros = operands(&[2], &[&[0.0, 0.0], &[0.0, 0.0]], None);
        assert_eq!(merged(&Karcher::default(), &zeros), [0.0, 0.0]);
        assert!(Karcher { tol: 0.0, ..Karcher::default() }.check(2).is_err());
    }
}
