//! Scaled task vectors, as in layer-wise AdaMerging (arXiv 2310.02575).
//!
//! ```text
//! W = base + sum_i l[i] (W_i - base)      so the base has coefficient 1 - sum_i l[i], and source i has l[i]
//! ```
//!
//! One `l[i]` per source and tensor. It starts at the average of the sources without the base, so
//! the coefficient of the base starts at 0.

use candle_core::{Result, Tensor};

use super::{Parameter, Scheme, Site};

/// One coefficient per task vector and tensor. Needs the base model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task;

impl Scheme for Task {
    fn name(&self) -> String {
        "task".into()
    }

    fn needs_base(&self) -> bool {
        true
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let mut start = site.start(site.name());
        if let Some(base) = site.base.filter(|base| *base < start.len()) {
            start.remove(base);
        }
        let sum: f32 = start.iter().sum();
        let start: Vec<f32> = start.into_iter().map(|x| x / sum).collect();
        vec![Parameter::new(site.name(), &[start.len(), 1, 1], start)]
    }

    fn coefficients(&self, site: &Site<'_>, parameters: &[Tensor]) -> Result<Tensor> {
        let (scales, Some(base)) = (&parameters[0], site.base) else {
            candle_core::bail!("no base model is merged")
        };
        let tasks = scales.dim(0)?;
        let rest = scales.sum_keepdim(0)?.affine(-1.0, 1.0)?;
        let before = scales.narrow(0, 0, base)?;
        let after = scales.narrow(0, base, tasks - base)?;
        match (base, tasks - base) {
            (0, _) => Tensor::cat(&[rest, after], 0),
            (_, 0) => Tensor::cat(&[before, rest], 0),
            _ => Tensor::cat(&[before, rest, after], 0),
        }
    }
}
