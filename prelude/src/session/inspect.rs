//! inspect: statistics of the coefficients.

use candle_core::DType;
use globset::Glob;

use crate::coefficients::MergedTensor;
use crate::error::{Error, Result};
use crate::show::{Along, Inspection, SourceStats, TensorStats, short_name};

use super::Session;

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

/// Returns the `tensors` selected by `pattern`: a name, a glob or a part of a name, in its full or
/// its short form.
///
/// # Errors
/// The pattern matches no tensor.
pub(crate) fn matching<'a, T>(
    pattern: &str,
    tensors: impl Iterator<Item = &'a T> + Clone,
    name: impl Fn(&T) -> &str,
) -> Result<Vec<&'a T>> {
    // A pattern that ends with a dot matches all longer names.
    let whole = if pattern.ends_with('.') { format!("{pattern}*") } else { pattern.to_owned() };
    let glob = Glob::new(&whole)
        .map_err(|_| Error::NoMatch { pattern: pattern.into() })?
        .compile_matcher();
    let exact = tensors.clone().any(|t| name(t) == pattern);
    // Tries the full name, then its suffixes that start at a part, then any substring.
    let starts = |name: &str| {
        std::iter::once(0).chain(name.match_indices('.').map(|(i, _)| i + 1)).collect::<Vec<_>>()
    };
    let globbed = |name: &str| starts(name).into_iter().any(|i| glob.is_match(&name[i..]));
    let fits = |name: &str| name.contains(pattern) || globbed(name) || globbed(short_name(name));
    let matches = |name: &str| if exact { name == pattern } else { fits(name) };
    let found: Vec<&T> = tensors.filter(|t| matches(name(t))).collect();
    if found.is_empty() { Err(Error::NoMatch { pattern: pattern.into() }) } else { Ok(found) }
}

/// Returns the tensor whose full or short name is `pattern`, or the only one that matches it.
///
/// # Errors
/// No match (the error names the nearest), or several matches.
pub(crate) fn single<'a, T>(
    pattern: &str,
    tensors: impl Iterator<Item = &'a T> + Clone,
    name: impl Fn(&T) -> &str,
) -> Result<&'a T> {
    if let Some(found) = tensors.clone().find(|t| short_name(name(t)) == short_name(pattern)) {
        return Ok(found);
    }
    match matching(pattern, tensors.clone(), &name).unwrap_or_default()[..] {
        [one] => Ok(one),
        [] => Err(Error::unknown("tensor", pattern, tensors.map(|t| short_name(name(t))))),
        [one, ..] => Err(Error::Sources {
            what: format!(
                "`{pattern}` matches several tensors, and a plot shows one, such as {}",
                short_name(name(one))
            ),
            hint: "list the matches: inspect GLOB",
        }),
    }
}
