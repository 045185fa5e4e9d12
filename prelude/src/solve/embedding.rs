//! The system of the embedding: its inputs are single rows, as often as their tokens occur.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::basis;
use super::block::Unit;
use super::pass::Pass;
use super::quadratic::{Gram, Quadratic, dot};
use super::streams::State;
use crate::coefficients::{Merge, MergedTensor};
use crate::error::Result;
use crate::interrupt;
use crate::model::{Decoder, SourceWeights};

impl<'a> Pass<'a> {
    /// Solves the embedding on the tokens of the data, and starts all states.
    pub(super) fn embedding(&mut self) -> Result<()> {
        let merge: &'a Merge = self.merge;
        let tensor = merge.embedding()?;
        if self.wants(tensor) && self.differs(tensor)? {
            self.solve_embedding(tensor)?;
        }
        let (a, device, dtype) = (&merge.architecture, &merge.device, self.dtype);
        let weights = merge.as_weights(dtype);
        let merged = Decoder::new(a, &weights);
        for stream in self.streams.iter_mut() {
            interrupt::check()?;
            let x = merged.embed(&stream.ids)?;
            stream.merged = State { input: x.clone(), x };
            let source = &self.sources[stream.source];
            let x = Decoder::new(a, &SourceWeights { source, device, dtype }).embed(&stream.ids)?;
            stream.own = State { input: x.clone(), x };
        }
        Ok(())
    }

    fn solve_embedding(&mut self, tensor: &'a MergedTensor) -> Result<()> {
        let n = self.sources.len();
        // Per token: the share of the tokens of each source.
        let mut shares = BTreeMap::<u32, Vec<f64>>::new();
        for stream in self.streams.iter() {
            for id in stream.ids.to_vec1::<u32>()? {
                let share = &mut shares.entry(id).or_insert_with(|| vec![0.0; n])[stream.source];
                *share += stream.weight.powi(2);
            }
        }
        let ids: Vec<u32> = shares.keys().copied().collect();
        let count = ids.len();
        let device = &self.merge.device;
        let ids = Tensor::from_vec(ids, count, device)?;
        let rows = |i: usize, apart: bool| {
            let weights = basis::weights_of(n, i, apart);
            self.merge.combination(tensor, &weights, Some(&ids), self.dtype)
        };
        let mut right = rows(0, true)?.zeros_like()?;
        let (mut gram, mut at_average) = (right.narrow(1, 0, 1)?.zeros_like()?, 0.0);
        for i in 0..n {
            let share: Vec<f64> = shares.values().map(|shares| shares[i]).collect();
            let share = Tensor::from_vec(share, (count, 1), &Device::Cpu)?;
            let share = share.to_dtype(self.dtype)?.to_device(device)?;
            let apart = rows(i, true)?;
            let weighted = apart.broadcast_mul(&share)?;
            at_average += dot(&weighted, &apart)?;
            (gram, right) = ((gram + share)?, (right + weighted)?);
        }
        if at_average == 0.0 {
            return Ok(());
        }
        let quadratic = Quadratic { gram: Gram::Rows(gram), right, at_average };
        self.solve(vec![Unit { tensors: vec![tensor], ids: Some(ids), quadratic }])
    }
}
