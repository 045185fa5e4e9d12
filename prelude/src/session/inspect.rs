//! inspect: statistics of the coefficients.

use crate::coefficients::MergedTensor;
use crate::error::Result;
use crate::show::{Along, Inspection, SourceStats, TensorStats};
use candle_core::DType;

use super::Session;
use super::matching::matching;

impl Session {
    pub(super) fn inspect(&self, pattern: &str) -> Result<Inspection> {
        let found = matching(pattern, self.merge.tensors.iter(), |t| &t.spec.name)?;
        let tensors = found.iter().map(|t| self.statistics(t)).collect::<Result<Vec<_>>>()?;
        let columns = if let [one] = found.as_slice() { Some(self.columns(one)?) } else { None };
        Ok(Inspection { tensors, columns })
    }

    pub(super) fn statistics(&self, tensor: &MergedTensor) -> Result<TensorStats> {
        const COLUMNS: usize = 5;
        let c = self.merge.coefficients(tensor)?;
        let along = match (c.dims(), self.merge.site(&tensor.spec).columns()) {
            ([_, 1, c], columns) if *c == columns => Along::Column,
            ([_, 1, 1], _) => Along::Tensor,
            ([_, _, 1], _) => Along::Row,
            _ => Along::Element,
        };
        let rows: Vec<Vec<f64>> = {
            let c = c.detach().flatten_from(1)?;
            c.to_dtype(DType::F64)?.to_vec2()?
        };
        let stats = |row: &Vec<f64>| {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            SourceStats {
                mean,
                min: row.iter().copied().fold(f64::INFINITY, f64::min),
                max: row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                std: (row.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / n).sqrt(),
            }
        };
        let width = if matches!(along, Along::Column | Along::Row) {
            rows.first().map_or(0, Vec::len)
        } else {
            0
        };
        let column = |j: usize| rows.iter().map(|row| row[j]).collect::<Vec<f64>>();
        let spread = |j: usize| {
            let c = column(j);
            c.iter().copied().fold(f64::NEG_INFINITY, f64::max)
                - c.iter().copied().fold(f64::INFINITY, f64::min)
        };
        let mut order: Vec<usize> = (0..width).filter(|j| spread(*j) > 1e-6).collect();
        order.sort_by(|a, b| spread(*b).total_cmp(&spread(*a)).then(a.cmp(b)));
        Ok(TensorStats {
            name: tensor.spec.name.clone(),
            kind: tensor.spec.kind.name(),
            trains: tensor.trains,
            along,
            sources: self
                .sources
                .iter()
                .map(|s| s.name().to_owned())
                .zip(rows.iter().map(stats))
                .collect(),
            columns: order.into_iter().take(COLUMNS).map(|j| (j, column(j))).collect(),
        })
    }
}
