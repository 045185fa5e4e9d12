//! diff: compares the coefficients of two merges tensor by tensor, and their scores.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::DType;

use super::Dam;
use crate::error::{Error, Result};
use crate::show::{Difference, TensorDifference};

/// Names of the sources, and their coefficients in that order.
type Coefficients = (Vec<String>, Vec<f64>);

impl Dam {
    /// Compares the coefficients of `other` with those of this merge, for every tensor whose
    /// coefficients have the same shape in both, and their scores on the data that [`Dam::eval`]
    /// uses; missing scores are computed.
    ///
    /// ```
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let before = dam.fork()?;
    /// dam.step()?;
    /// let difference = dam.diff(&before)?;
    /// assert!(difference.tensors.iter().all(|t| t.most > 0.0 && t.most < 2e-3)); // one step of lr 1e-3
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// The merges have neither tensors nor scores to compare, or the data is invalid.
    pub fn diff(&self, other: &Dam) -> Result<Difference> {
        let mine = self.all_coefficients()?;
        let theirs = other.all_coefficients()?;
        let mut tensors = Vec::new();
        for (name, (sources, values)) in &mine {
            let Some((_, others)) =
                theirs.get(name).filter(|(s, v)| s == sources && v.len() == values.len())
            else {
                continue;
            };
            let apart = values.iter().zip(others).map(|(a, b)| (a - b).abs());
            let mean = apart.clone().sum::<f64>() / values.len().max(1) as f64;
            let most = apart.clone().fold(0.0, f64::max);
            let changed = apart.filter(|d| *d > 0.0).count();
            tensors.push(TensorDifference {
                name: name.clone(),
                coefficients: values.len(),
                changed,
                mean,
                most,
            });
        }
        if tensors.is_empty() && self.models().data.is_empty() {
            let what = "the merges have no coefficients of the same sources and shape, and no data to score on".into();
            return Err(Error::Sources {
                what,
                hint: "compare merges wrapped with the same scheme, or give them data",
            });
        }
        tensors.sort_by(|a, b| b.mean.total_cmp(&a.mean).then_with(|| a.name.cmp(&b.name)));
        let all: BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        let only = all.into_iter().filter(|name| !tensors.iter().any(|t| t.name == **name)).count();
        let scores = |dam: &Dam| {
            let known = dam.session().scores.clone();
            known.map_or_else(|| dam.eval(&[]), Ok)
        };
        let scores = if self.models().data.is_empty() {
            None
        } else {
            Some((scores(self)?, scores(other)?))
        };
        Ok(Difference { tensors, incomparable: only, scores, steps: (self.steps(), other.steps()) })
    }

    /// The coefficients by tensor.
    fn all_coefficients(&self) -> Result<BTreeMap<String, Coefficients>> {
        let session = self.session();
        let names: Vec<String> = session.sources.iter().map(|s| s.name().to_owned()).collect();
        let one = |t: &crate::coefficients::MergedTensor| {
            let c = session.merge.coefficients(t)?.detach().to_dtype(DType::F64)?;
            Ok((t.spec.name.clone(), (names.clone(), c.flatten_all()?.to_vec1()?)))
        };
        session.merge.tensors.iter().map(one).collect()
    }
}
