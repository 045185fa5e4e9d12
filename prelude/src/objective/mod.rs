//! The terms of the objective. Source of all formulas: arXiv 2410.08371 and its code.
//!
//! Data terms compare the merge's logits with those of a source on that source's data. Penalties
//! apply to the coefficients of every trainable weight, in broadcast form: sources x columns, or
//! sources x R x C.
//!
//! A term is added to the objective in `session/terms.rs`; its weight is a setting
//! (`train/settings/`), described in `verbs/topics.rs`.

mod cosine;
mod distillation;
mod norms;
mod overlap;

pub use cosine::cosine;
pub use distillation::{Distillation, Reduction, TeacherLogits};
pub use norms::{l1, l2};
pub use overlap::{column_angles, overlap};

use candle_core::{Device, Result, Tensor};

/// Returns the sources `a` and `b` of all pairs `a < b` in `c` (sources x ...).
fn pairs(c: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    let sources = c.dim(0)? as u32;
    let (a, b): (Vec<u32>, Vec<u32>) =
        (0..sources).flat_map(|a| (a + 1..sources).map(move |b| (a, b))).unzip();
    if a.is_empty() {
        return Ok(None);
    }
    let rows = |index: Vec<u32>| c.index_select(&Tensor::new(index, &Device::Cpu)?, 0);
    Ok(Some((rows(a)?, rows(b)?)))
}

/// Returns the sum over all dimensions but the first.
fn sum_of_each(c: &Tensor) -> Result<Tensor> {
    c.flatten_from(1)?.sum(1)
}

/// Returns `sqrt(sum_j c[i, j]^2)` for every source; the gradient at 0 is 0.
fn norms_of_each(c: &Tensor) -> Result<Tensor> {
    (sum_of_each(&c.sqr()?)? + 1e-24)?.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{differentiates, random, values};

    #[test]
    fn penalties_pass_finite_differences() {
        let c = [random(&[3, 6], 1)];
        differentiates(&c, |v| cosine(&v[0]));
        differentiates(&c, |v| l1(&v[0]));
        differentiates(&c, |v| l2(&v[0]));
        differentiates(&c, |v| overlap(&v[0], None));
        let weights = random(&[3, 6], 2).abs().unwrap();
        differentiates(&c, |v| overlap(&v[0], Some(&weights)));
        // Per row, and per element, weighted by column.
        let c = [random(&[3, 4, 1], 1)];
        differentiates(&c, |v| overlap(&v[0], Some(&weights)));
        let c = [random(&[3, 4, 6], 1)];
        differentiates(&c, |v| cosine(&v[0]));
        differentiates(&c, |v| l2(&v[0]));
        differentiates(&c, |v| overlap(&v[0], Some(&weights)));
    }

    #[test]
    fn broadcast_columns_are_penalised_like_columns() {
        let flat = random(&[3, 6], 1);
        let weights = random(&[3, 6], 2).abs().unwrap();
        let form = flat.reshape((3, 1, 6)).unwrap();
        for penalty in [cosine, l1, l2, |c: &Tensor| overlap(c, None)] {
            assert_eq!(values(&penalty(&flat).unwrap()), values(&penalty(&form).unwrap()));
        }
        let weighted = |c: &Tensor| values(&overlap(c, Some(&weights)).unwrap());
        assert_eq!(weighted(&flat), weighted(&form));
    }

    #[test]
    fn parallel_vectors_have_no_cosine_gradient() {
        let c = candle_core::Var::from_tensor(
            &(random(&[3, 6], 1).ones_like().unwrap() / 3.0).unwrap(),
        )
        .unwrap();
        let grads = cosine(c.as_tensor()).unwrap().backward().unwrap();
        assert!(values(grads.get(c.as_tensor()).unwrap()).iter().all(|g| g.abs() < 1e-12));
    }

    #[test]
    fn a_zero_vector_has_finite_gradients() {
        let c = candle_core::Var::from_tensor(&random(&[2, 3], 1).zeros_like().unwrap()).unwrap();
        for loss in [cosine(c.as_tensor()), l2(c.as_tensor())] {
            let grads = loss.unwrap().backward().unwrap();
            assert!(values(grads.get(c.as_tensor()).unwrap()).iter().all(|g| g.is_finite()));
        }
    }
}
