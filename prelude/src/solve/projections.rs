//! The systems of projections, from the inputs of all tokens or from task vectors.

use candle_core::Tensor;

use super::block::Unit;
use super::pass::Pass;
use super::quadratic::{Gram, Quadratic, dot};
use crate::coefficients::MergedTensor;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{SourceWeights, Weights};
use crate::ops::{Gradient, linear};

impl<'a> Pass<'a> {
    /// Solves projections with the same inputs. With `last`, their results are added to the
    /// residual stream.
    pub(super) fn projections(&mut self, names: &[String], last: bool) -> Result<()> {
        let biased = self.whole.is_none();
        let units = names.iter().map(|name| self.tensors(name)).filter(|t| self.wants(t[0]));
        let units = units.map(|t| if biased { t } else { t[..1].to_vec() });
        let mut solved: Vec<Vec<&'a MergedTensor>> = Vec::new();
        for unit in units {
            // Equal weights give what is asked for at any coefficients.
            if self.settings.corrects_inputs() || self.any_differs(&unit)? {
                solved.push(unit);
            }
        }
        let units = solved;
        let Some(first) = units.first() else { return Ok(()) };
        let has_bias = first.len() > 1;
        let gram = Gradient::default();
        let rights: Vec<Gradient> = units.iter().map(|_| Gradient::default()).collect();
        let mut energies = vec![0.0; units.len()];
        for i in 0..self.sources.len() {
            let weights = |unit: &Vec<&MergedTensor>| {
                let own = if self.settings.corrects_inputs() {
                    Some(self.weight_of(unit, i, false)?)
                } else {
                    None
                };
                Ok((self.weight_of(unit, i, true)?, own))
            };
            let mut streams = self.streams.iter().filter(|s| s.source == i).peekable();
            if streams.peek().is_none() {
                continue;
            }
            let weights = units.iter().map(weights).collect::<Result<Vec<_>>>()?;
            for stream in streams {
                interrupt::check()?;
                let inputs = [&stream.merged.input, &stream.own.input];
                let inputs = inputs.map(|x| if has_bias { with_one(x) } else { Ok(x.clone()) });
                let [merged, own] = inputs;
                let inputs = [merged?, own?];
                let x = self.chosen(&inputs);
                let scaled = (x * stream.weight)?;
                gram.add_product(&scaled, &scaled)?;
                let missing = if self.settings.corrects_inputs() {
                    Some((&inputs[1] - &inputs[0])?)
                } else {
                    None
                };
                for ((right, energy), (apart, own)) in
                    rights.iter().zip(&mut energies).zip(&weights)
                {
                    let mut d = linear(x, apart)?;
                    if let (Some(missing), Some(own)) = (&missing, own) {
                        d = (d + linear(missing, own)?)?;
                    }
                    if last && self.settings.corrects_residual() {
                        d = (d + self.residual(stream)?)?;
                    }
                    let d = (d * stream.weight)?;
                    *energy += dot(&d, &d)?;
                    right.add_product(&d, &scaled)?;
                }
            }
        }
        let Some(gram) = gram.total() else { return Ok(()) };
        let unit = |((tensors, right), at_average): ((_, Gradient), f64)| {
            let right = right.total().ok_or(Error::NothingToTrain)?;
            let gram = Gram::Dense(gram.clone());
            Ok(Unit { tensors, ids: None, quadratic: Quadratic { gram, right, at_average } })
        };
        let units = units.into_iter().zip(rights).zip(energies).map(unit).collect::<Result<_>>()?;
        self.solve(units)
    }

    /// Solves projections on the rows of task vectors: `sum_i |(W - W_i) t_i^T|^2 / |t_i|^2`.
    pub(super) fn tasks(&mut self, names: &[String]) -> Result<()> {
        let base = self.base.ok_or_else(|| Error::Sources {
            what: "task vectors need a base model, and none is marked".into(),
            hint: "mark the base: load base=SOURCE",
        })?;
        for name in names {
            let Some(weight) = self.tensors(name).into_iter().next().filter(|t| self.wants(t))
            else {
                continue;
            };
            let device = &self.merge.device;
            let origin = SourceWeights { source: base, device, dtype: self.dtype };
            let origin = origin.weight(&weight.spec.name)?;
            let (gram, right, mut at_average) = (Gradient::default(), Gradient::default(), 0.0);
            for i in 0..self.sources.len() {
                interrupt::check()?;
                let task = (self.weight_of(&[weight], i, false)? - &origin)?;
                let size = dot(&task, &task)?;
                if size == 0.0 {
                    continue;
                }
                let rows = (task / size.sqrt())?;
                let d = linear(&rows, &self.weight_of(&[weight], i, true)?)?;
                at_average += dot(&d, &d)?;
                gram.add_product(&rows, &rows)?;
                right.add_product(&d, &rows)?;
            }
            let (Some(gram), Some(right)) = (gram.total(), right.total()) else { continue };
            let quadratic = Quadratic { gram: Gram::Dense(gram), right, at_average };
            self.solve(vec![Unit { tensors: vec![weight], ids: None, quadratic }])?;
        }
        Ok(())
    }
}

/// Returns `x` with one more column, of ones.
fn with_one(x: &Tensor) -> Result<Tensor> {
    let ones = Tensor::ones((x.dim(0)?, 1), x.dtype(), x.device())?;
    Ok(Tensor::cat(&[x, &ones], 1)?)
}
