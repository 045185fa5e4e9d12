//! `mean over pairs of sum_j w_j min(|c[a, j]|, |c[b, j]|)`: penalises columns shared by two
//! sources.
//!
//! Plain overlap has `w = 1`; weighted overlap has `w_j = sin^2(2 theta_j)`, where `theta_j` is the
//! angle between the pair's task vectors (source - base) in column `j`. The weight is largest at 45
//! degrees.

use candle_core::{DType, Device, Result, Tensor};

use super::{pairs, sum_of_each};
use crate::checkpoint::{TensorSpec, View};

/// Returns the overlap of the sources in `c` (sources x columns, or sources x R x C), weighted by
/// `weights` (pairs x columns). A coefficient that scales several columns counts once per weight.
///
/// ```
/// # use dam_prelude::candle_core::{Device, Result, Tensor};
/// # fn main() -> Result<()> {
/// let c = Tensor::new(&[[1f32, 0.5], [-0.25, 2.0]], &Device::Cpu)?;
/// assert_eq!(dam_prelude::objective::overlap(&c, None)?.to_scalar::<f32>()?, 0.75);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Shapes that do not match.
pub fn overlap(c: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let Some((a, b)) = pairs(c)? else { return c.zeros_like()?.sum_all() };
    let shared = a.abs()?.minimum(&b.abs()?)?;
    let shared = match weights {
        Some(weights) if shared.rank() == 3 => shared.broadcast_mul(&weights.unsqueeze(1)?)?,
        Some(weights) => (shared * weights)?,
        None => shared,
    };
    sum_of_each(&shared)?.mean_all()
}

/// Returns `sin^2(2 theta)` for every pair of sources and every column of one weight: pairs x
/// columns, f32. If a task vector is zero in a column, the weight is 0.
///
/// # Errors
/// Views whose shape differs from `spec`.
pub fn column_angles(
    spec: &TensorSpec,
    base: &View,
    sources: &[View],
) -> crate::error::Result<Tensor> {
    let columns = spec.shape.last().copied().unwrap_or(1);
    let read = |view: &View| -> crate::error::Result<Tensor> {
        Ok(view.to_tensor(&Device::Cpu)?.to_dtype(DType::F32)?.reshape(((), columns))?)
    };
    let base = read(base)?;
    let tasks = sources
        .iter()
        .map(|s| Ok((read(s)? - &base)?))
        .collect::<crate::error::Result<Vec<_>>>()?;
    let dot = |a: &Tensor, b: &Tensor| -> Result<Vec<f32>> { (a * b)?.sum(0)?.to_vec1() };
    let norms = tasks.iter().map(|t| dot(t, t)).collect::<Result<Vec<_>>>()?;
    let mut weights = Vec::new();
    for a in 0..tasks.len() {
        for b in a + 1..tasks.len() {
            for ((dot, x), y) in
                dot(&tasks[a], &tasks[b])?.into_iter().zip(&norms[a]).zip(&norms[b])
            {
                let squares = f64::from(*x) * f64::from(*y);
                let cosine2 =
                    if squares > 0.0 { (f64::from(dot).powi(2) / squares).min(1.0) } else { 0.0 };
                weights.push((4.0 * cosine2 * (1.0 - cosine2)) as f32);
            }
        }
    }
    Ok(Tensor::from_vec(weights, ((), columns), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Kind;
    use crate::checkpoint::encoded;

    /// Task vectors (1, 0) and, column by column: parallel, at 45, 60 and 90 degrees, opposite,
    /// zero.
    #[test]
    fn weights_are_largest_at_45_degrees() {
        let spec = TensorSpec { name: "w".into(), kind: Kind::Linear, shape: vec![2, 6] };
        let root3 = 3f32.sqrt();
        let view = |values: [f32; 12]| View::of(encoded(&values, DType::F32), DType::F32, &[2, 6]);
        let base = view([0.5; 12]);
        let a = view([1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]);
        let b = view([2.5, 1.5, 1.5, 0.5, -0.5, 0.5, 0.5, 1.5, 0.5 + root3, 2.5, 0.5, 0.5]);
        let weights = column_angles(&spec, &base, &[a, b]).unwrap();
        let weights: Vec<Vec<f32>> = weights.to_vec2().unwrap();
        for (found, expected) in weights[0].iter().zip([0.0, 1.0, 0.75, 0.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{weights:?}");
        }
    }
}
