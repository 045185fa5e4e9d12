//! The systems of norms: `y = w o z` with the normalised input `z`, one small system per column.

use candle_core::Tensor;

use super::block::Unit;
use super::pass::Pass;
use super::quadratic::{Gram, Quadratic, dot};
use super::streams::Stream;
use crate::coefficients::{Merge, MergedTensor};
use crate::error::{Error, Result};
use crate::model::{SourceWeights, Weights};
use crate::ops::{linear, rms_norm};

impl<'a> Pass<'a> {
    /// Solves a norm of queries or keys.
    pub(super) fn head_norm(&mut self, name: &str) -> Result<()> {
        let projection = name.replace("_norm", "_proj");
        let tensors = self.tensors(&projection);
        let Some(weight) = tensors.first() else { return Ok(()) };
        let project =
            |x: &Tensor, of: &dyn Fn(&MergedTensor) -> Result<Tensor>| -> Result<Tensor> {
                let y = linear(x, &of(weight)?)?;
                Ok(match tensors.get(1) {
                    Some(bias) => y.broadcast_add(&of(bias)?)?,
                    None => y,
                })
            };
        let inputs = |stream: &Stream| -> Result<[Tensor; 2]> {
            let source = &self.sources[stream.source];
            let own = SourceWeights { source, device: &self.merge.device, dtype: self.dtype };
            let own = |t: &MergedTensor| own.weight(&t.spec.name);
            let merged = |t: &MergedTensor| self.merged_weight(t);
            Ok([project(&stream.merged.input, &merged)?, project(&stream.own.input, &own)?])
        };
        let tensor = self.merge.tensor(&format!("{name}.weight"))?;
        if !self.wants(tensor) || !self.differs(tensor)? {
            return Ok(());
        }
        let inputs = self.streams.iter().map(inputs).collect::<Result<Vec<_>>>()?;
        self.norm(name, &inputs, false)
    }

    /// Solves a norm for its inputs in the merge and in the source, one pair per stream. With
    /// `last`, its results are added to the residual stream.
    pub(super) fn norm(&mut self, name: &str, inputs: &[[Tensor; 2]], last: bool) -> Result<()> {
        let merge: &'a Merge = self.merge;
        let tensor = merge.tensor(&format!("{name}.weight"))?;
        if !self.wants(tensor) || !self.differs(tensor)? {
            return Ok(());
        }
        let (width, a) = (tensor.spec.shape[0], &merge.architecture);
        let ones = Tensor::ones(width, self.dtype, &merge.device_of(tensor))?;
        let normalised =
            |x: &Tensor| Ok::<_, Error>(rms_norm(&x.reshape(((), width))?, &ones, a.norm_eps)?);
        let zero = Tensor::zeros((1, width), self.dtype, &merge.device_of(tensor))?;
        let (mut gram, mut right, mut at_average) = (zero.clone(), zero, 0.0);
        for (stream, states) in self.streams.iter().zip(inputs) {
            let x = normalised(self.chosen(states))?;
            let mut d = x.broadcast_mul(&self.weight_of(&[tensor], stream.source, true)?)?;
            if self.settings.corrects_inputs() {
                let own = (self.weight_of(&[tensor], stream.source, false)? + a.norm_offset)?;
                d = (d + (normalised(&states[1])? - &x)?.broadcast_mul(&own)?)?;
            }
            if last && self.settings.corrects_residual() {
                d = (d + self.residual(stream)?)?;
            }
            let weight = stream.weight.powi(2);
            gram = (gram + (x.sqr()?.sum_keepdim(0)? * weight)?)?;
            right = (right + ((&d * &x)?.sum_keepdim(0)? * weight)?)?;
            at_average += dot(&d, &d)? * weight;
        }
        let quadratic = Quadratic { gram: Gram::Columns(gram), right, at_average };
        self.solve(vec![Unit { tensors: vec![tensor], ids: None, quadratic }])
    }
}
